/* Products and sums of whole numbers below 2**53 are exact: rounded once or twice, they are the same. So here, and
   here alone, they may be contracted. */
#ifdef __clang__
#pragma clang fp contract(fast)
#else
#pragma GCC optimize("fp-contract=fast")
#endif

#include "products.h"

INLINE void outer_tile(const double *v, long outs, const double *u, long ins, long rows, double *s) {
  d4 sum[TILE][2];
  for (int o = 0; o < TILE; o++)
    for (int k = 0; k < 2; k++) sum[o][k] = d4_at(s + o * ins + 4 * k);
  for (long r = 0; r < rows; r++) {
    for (int k = 0; k < 2; k++) {
      d4 right = d4_at(u + r * ins + 4 * k);
      for (int o = 0; o < TILE; o++) sum[o][k] += v[r * outs + o] * right;
    }
  }
  for (int o = 0; o < TILE; o++)
    for (int k = 0; k < 2; k++) *(d4 *)(s + o * ins + 4 * k) = sum[o][k];
}

void outer_sum(const double *v, long outs, long taken, const double *u, long ins, long rows, double *s) {
  for (long i = 0; i < ins; i += LANES)
    for (long o = 0; o < taken; o += TILE) outer_tile(v + o, outs, u + i, ins, rows, s + o * ins + i);
}
