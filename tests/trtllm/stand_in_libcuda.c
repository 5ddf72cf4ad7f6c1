// A stand-in for the NVIDIA driver's library: two GPUs, or what STAND_IN_CUDA_STATUS says.
#include <stdlib.h>
#include <string.h>

int cuInit(unsigned flags) {
  const char* status = getenv("STAND_IN_CUDA_STATUS");
  return flags == 0 && status ? atoi(status) : 0;
}
int cuDriverGetVersion(int* version) { return *version = 13000, 0; }
int cuDeviceGetCount(int* count) { return *count = 2, 0; }
int cuDeviceGet(int* device, int number) { return *device = number, 0; }
int cuDeviceGetName(char* name, int size, int device) {
  return strncpy(name, device ? "Stand-in B" : "Stand-in A", size), 0;
}
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  return *value = attribute == 75 ? 9 : device, 0;
}
