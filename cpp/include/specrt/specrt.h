// All of the C++ API. For C and other languages: specrt_c.h.
#pragma once

#include "specrt/bundle.h"
#include "specrt/error.h"
#include "specrt/llm.h"
#include "specrt/types.h"
