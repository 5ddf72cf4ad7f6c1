/* Marks what libspecrt exports; everything else is hidden. C includes this too. */
#ifndef SPECRT_EXPORT_H_
#define SPECRT_EXPORT_H_

#define SPECRT_API __attribute__((visibility("default")))

#endif /* SPECRT_EXPORT_H_ */
