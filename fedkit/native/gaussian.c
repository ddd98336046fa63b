#include "gaussian.h"

#include <math.h>

#include "vector.h"

/* Candidates of fedkit.privacy.rounded_gaussian: the arithmetic of fedkit.privacy.pair_candidate, number for number.
   Polynomials of fdlibm (Sun Microsystems 1993): log on [sqrt(1/2), sqrt(2)), sine and cosine on [-pi / 4, pi / 4]. */

typedef uint64_t u4 __attribute__((vector_size(32), aligned(8), may_alias));

static const double L1 = 0x1.5555555555593p-1, L2 = 0x1.999999997fa04p-2, L3 = 0x1.2492494229359p-2,
                    L4 = 0x1.c71c51d8e78afp-3, L5 = 0x1.7466496cb03dep-3, L6 = 0x1.39a09d078c69fp-3,
                    L7 = 0x1.2f112df3e5244p-3;
static const double LN2_HIGH = 0x1.62e42feep-1, LN2_LOW = 0x1.a39ef35793c76p-33;
static const double S1 = -0x1.5555555555549p-3, S2 = 0x1.111111110f8a6p-7, S3 = -0x1.a01a019c161d5p-13,
                    S4 = 0x1.71de357b1fe7dp-19, S5 = -0x1.ae5e68a2b9cebp-26, S6 = 0x1.5d93a5acfd57cp-33;
static const double C1 = 0x1.555555555554cp-5, C2 = -0x1.6c16c16c15177p-10, C3 = 0x1.a01a019cb159p-16,
                    C4 = -0x1.27e4f809c52adp-22, C5 = 0x1.1ee9ebdb4b1c4p-29, C6 = -0x1.8fae9be8838d4p-37;
static const double HALF_PI = 0x1.921fb54442d18p0;

/* Not of [1, 2) but the midpoints of cells of (0, 1). */
INLINE d4 uniform(u4 word) { return (d4)((word >> 12) | 0x3FF0000000000000u) - (1.0 - 0x1p-53); }

INLINE d4 root(d4 x) {
  d4 found;
  for (int k = 0; k < 4; k++) found[k] = sqrt(x[k]);
  return found;
}

INLINE d4 logarithm(d4 u) {
  u4 bits = (u4)u, above = bits - 0x3FE6A09E667F3BCDu;
  /* The exponent as a number, without the signed shift that vectors lack. */
  d4 e = (d4)(((above + 0x4000000000000000u) >> 52) | 0x4330000000000000u) - (0x1p52 + 1024.0);
  d4 f = (d4)(bits - (above & 0xFFF0000000000000u)) - 1.0;
  d4 s = f / (2.0 + f), z = s * s, w = z * z;
  d4 even = w * (L2 + w * (L4 + w * L6)), odd = z * (L1 + w * (L3 + w * (L5 + w * L7)));
  d4 half = 0.5 * f * f;
  return e * LN2_HIGH - ((half - (s * (half + (odd + even)) + e * LN2_LOW)) - f);
}

/* Of 2 pi v: a quarter turn is taken off exactly, then sine and cosine change places and signs by what was. */
INLINE void turn(d4 v, d4 *cosine, d4 *sine) {
  d4 quarters = v * 4.0, shifted = quarters + ROUNDING;
  d4 y = (quarters - (shifted - ROUNDING)) * HALF_PI, z = y * y, half = 0.5 * z, rest = 1.0 - half;
  u4 j = (u4)shifted, odd = 0 - (j & 1);
  u4 sn = (u4)(y + (z * y) * (S1 + z * (S2 + z * (S3 + z * (S4 + z * (S5 + z * S6))))));
  u4 cs = (u4)(rest + (((1.0 - rest) - half) + z * z * (C1 + z * (C2 + z * (C3 + z * (C4 + z * (C5 + z * C6)))))));
  u4 changed = (sn ^ cs) & odd;
  *cosine = (d4)((cs ^ changed) ^ (((j + 1) & 2) << 62));
  *sine = (d4)((sn ^ changed) ^ ((j & 2) << 62));
}

/* Rounds two members of four pairs; all ones where one is doubtful. */
INLINE u4 rounded(u4 first, u4 second, double scale, double near_zero, double wide, d4 *x, d4 *y) {
  d4 u = uniform(first), radius = root(-2.0 * logarithm(u)), cosine, sine;
  turn(uniform(second), &cosine, &sine);
  d4 tolerance = near_zero / (u * radius) + wide * radius;
  radius *= scale;
  cosine *= radius, sine *= radius;
  *x = (cosine + ROUNDING) - ROUNDING, *y = (sine + ROUNDING) - ROUNDING;
  const u4 positive = (u4){0} + 0x7FFFFFFFFFFFFFFFu;
  d4 off_x = (d4)((u4)(cosine - *x) & positive), off_y = (d4)((u4)(sine - *y) & positive);
  const double limit = 0.5 - 0x1p-50;
  return (u4)(off_x + tolerance >= limit) | (u4)(off_y + tolerance >= limit);
}

int fedkit_gaussian(const uint64_t *words, int64_t rows, int64_t pairs, int64_t sines, double scale, double *cosine,
                    double *sine, int64_t apart, int64_t *doubtful) {
  double reach = scale < 2.0 ? 2.0 : scale, near_zero = reach * 0x1p-51, wide = reach * 0x1p-47;
  int found = 0;
  for (long row = 0; row < rows; row++, cosine += apart, sine += apart) {
    const uint64_t *first = words + row * 2 * pairs, *second = first + pairs;
    for (long at = 0; at < pairs; at += 4) {
      long here = pairs - at < 4 ? pairs - at : 4, below = sines - at < 4 ? sines - at : 4;
      u4 u, v;
      d4 x, y;
      if (below == 4) {
        u = *(const u4 *)(first + at), v = *(const u4 *)(second + at);
      } else {
        u = v = (u4){0} + ((uint64_t)1 << 63);
        memcpy(&u, first + at, here * sizeof(uint64_t)), memcpy(&v, second + at, here * sizeof(uint64_t));
      }
      u4 open = rounded(u, v, scale, near_zero, wide, &x, &y);
      if (below == 4) {
        *(d4 *)(cosine + at) = x, *(d4 *)(sine + at) = y;
      } else {
        memcpy(cosine + at, &x, here * sizeof(double)), memcpy(sine + at, &y, below * sizeof(double));
      }
      if (open[0] | open[1] | open[2] | open[3])
        for (long k = 0; k < here; k++)
          if (open[k]) doubtful[found++] = row * pairs + at + k;
    }
  }
  return found;
}
