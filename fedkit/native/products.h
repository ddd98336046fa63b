/* Matrix products of small layers, in tiles of four rows. Each number of a result is one sum in the order of its index:
   what it is does not depend on how many rows there are, nor on where a row stands. */
#ifndef FEDKIT_PRODUCTS_H
#define FEDKIT_PRODUCTS_H

#include "vector.h"

INLINE void rows_tile(const float *a, long wide, const float *b, long apart, long depth, float *c, long columns,
                      int vectors) {
  f8 sum[TILE][2] = {0};
  for (long i = 0; i < depth; i++) {
    for (int v = 0; v < vectors; v++) {
      f8 right = f8_at(b + i * apart + LANES * v);
      for (int r = 0; r < TILE; r++) sum[r][v] += a[r * wide + i] * right;
    }
  }
  for (int r = 0; r < TILE; r++)
    for (int v = 0; v < vectors; v++) *(f8 *)(c + r * columns + LANES * v) = sum[r][v];
}

/* c [rows, columns] = the first depth columns of a [rows, wide] times b [depth, the first columns of apart]. rows are a
   multiple of TILE, columns one of LANES. */
INLINE void rows_product(const float *a, long wide, const float *b, long apart, long depth, float *c, long columns,
                         long rows) {
  for (long r = 0; r < rows; r += TILE) {
    long j = 0;
    for (; j + 2 * LANES <= columns; j += 2 * LANES)
      rows_tile(a + r * wide, wide, b + j, apart, depth, c + r * columns + j, columns, 2);
    if (j < columns) rows_tile(a + r * wide, wide, b + j, apart, depth, c + r * columns + j, columns, 1);
  }
}

/* s [taken, ins] += the sum over rows of v [rows, outs] times u [rows, ins], whole numbers whose sums stay below 2**53.
   taken are a multiple of TILE, ins of LANES. */
void outer_sum(const double *v, long outs, long taken, const double *u, long ins, long rows, double *s);

INLINE void slope_tile(const float *e, long outs, const float *a, long ins, long rows, float *s, int vectors) {
  f8 sum[TILE][2] = {0};
  for (long r = 0; r < rows; r++) {
    for (int k = 0; k < vectors; k++) {
      f8 right = f8_at(a + r * ins + LANES * k);
      for (int o = 0; o < TILE; o++) sum[o][k] += e[r * outs + o] * right;
    }
  }
  for (int o = 0; o < TILE; o++)
    for (int k = 0; k < vectors; k++) *(f8 *)(s + o * ins + LANES * k) = sum[o][k];
}

/* s [taken, ins] = the sum over rows of e [rows, outs] times a [rows, ins]. */
INLINE void slope_sum(const float *e, long outs, long taken, const float *a, long ins, long rows, float *s) {
  for (long o = 0; o < taken; o += TILE) {
    long i = 0;
    for (; i + 2 * LANES <= ins; i += 2 * LANES) slope_tile(e + o, outs, a + i, ins, rows, s + o * ins + i, 2);
    if (i < ins) slope_tile(e + o, outs, a + i, ins, rows, s + o * ins + i, 1);
  }
}

#endif
