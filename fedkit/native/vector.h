/* Eight floats or four doubles at once. Compilers make of them what the processor has; each lane's arithmetic is the
   same everywhere, since no product and sum are contracted (-ffp-contract=off). */
#ifndef FEDKIT_VECTOR_H
#define FEDKIT_VECTOR_H

#include <stdint.h>
#include <string.h>

typedef float f8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef float f4 __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t i8 __attribute__((vector_size(32)));
typedef double d4 __attribute__((vector_size(32), aligned(8), may_alias));

#define INLINE static inline __attribute__((always_inline))
#define LANES 8
#define TILE 4

/* Adding and taking off 1.5 * 2**52 rounds to the nearest integer, ties to even, wherever |x| < 2**51. */
#define ROUNDING 6755399441055744.0

INLINE long up(long count, long grain) { return (count + grain - 1) / grain * grain; }

INLINE f8 f8_at(const float *p) { return *(const f8 *)p; }
INLINE d4 d4_at(const double *p) { return *(const d4 *)p; }
INLINE d4 d4_of(const float *p) { return __builtin_convertvector(*(const f4 *)p, d4); }

#ifdef __clang__
#define MIX(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define MIX(a, b, ...) __builtin_shuffle(a, b, (i8){__VA_ARGS__})
#endif

/* b [8 rows, every apart_b floats] = the transpose of a [8 rows, every apart_a floats]. */
INLINE void transpose8(const float *a, long apart_a, float *b, long apart_b) {
  f8 x[8], y[8];
  for (int k = 0; k < 8; k++) x[k] = f8_at(a + k * apart_a);
  for (int k = 0; k < 4; k++) {
    y[2 * k] = MIX(x[k], x[k + 4], 0, 8, 1, 9, 2, 10, 3, 11);
    y[2 * k + 1] = MIX(x[k], x[k + 4], 4, 12, 5, 13, 6, 14, 7, 15);
  }
  for (int k = 0; k < 4; k++) {
    x[2 * k] = MIX(y[k], y[k + 4], 0, 8, 1, 9, 2, 10, 3, 11);
    x[2 * k + 1] = MIX(y[k], y[k + 4], 4, 12, 5, 13, 6, 14, 7, 15);
  }
  for (int k = 0; k < 4; k++) {
    *(f8 *)(b + 2 * k * apart_b) = MIX(x[k], x[k + 4], 0, 8, 1, 9, 2, 10, 3, 11);
    *(f8 *)(b + (2 * k + 1) * apart_b) = MIX(x[k], x[k + 4], 4, 12, 5, 13, 6, 14, 7, 15);
  }
}

#endif
