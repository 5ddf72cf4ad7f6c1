// All kernels of one instruction set and the table of them. Included once by each kernels_ISA.cpp,
// inside namespace specrt::cpu::ISA. Everything here has internal linkage: an inline function with
// external linkage, compiled with the flags of a better instruction set, could be the copy that the
// linker keeps for all of the program. So no standard containers, no streams, no checks.

namespace {
#include "cpu/lanes.h"
#include "cpu/simd.h"
}  // namespace

namespace {
#include "cpu/attention.inl.h"
#include "cpu/embed.inl.h"
#include "cpu/linear.inl.h"
#include "cpu/noise.inl.h"
#include "cpu/rms_norm.inl.h"
#include "cpu/rope_angles.inl.h"
#include "cpu/rope_kv.inl.h"
}  // namespace

const Kernels kernels = {
    kIsaName, embed, rope_angles, rms_norm, linear, rope_kv, attention, argmax, argmax_noisy,
};
