// Marks what libspecrt exports; everything else is hidden.
#pragma once

#define SPECRT_API __attribute__((visibility("default")))
