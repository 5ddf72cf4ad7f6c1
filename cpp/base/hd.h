// SPECRT_HD marks functions that the CPU backend, CUDA kernels and the tests all run.
#pragma once

#ifdef __CUDACC__
#define SPECRT_HD __host__ __device__
#else
#define SPECRT_HD
#endif
