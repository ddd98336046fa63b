#include "vector.h"

/* Rows of a convolution, of the largest number of each pool of its outputs, and of zero or more, row by row: what a row
   gives follows from nothing but its own numbers, in one order.

   A row's image lies in a frame of zeros, [height, width, channels], with LANES numbers behind it that nobody means. A
   pool's error goes to the position where its largest number was, so both derivatives need one window for each number of
   the result, however many positions a pool has. */
typedef struct {
  /* Pools and positions of each; outputs of the kernels, up to LANES; numbers of a window, and 1 where there is a bias.
   */
  int64_t pools, positions, outputs, columns, numbers, bias;
  /* Vectors that cover a window, in pieces that lie together: length numbers each. */
  int64_t vectors, length;
  /* Where an image's lines stand in a frame: so many of so many numbers, the first one's place, a frame's width. */
  int64_t lines, line, from, apart, frame;
  int64_t relu;
  /* A pool's print, all that its windows see: so many lines of so many numbers. A kernel lies amid zeros, in lines of
     pitch numbers, so that a print's line can be read from it wherever in the pool its window is; field: all of them. */
  int64_t prints, print, pitch, field;
} convolution;

/* 4 positions x [] and up to 16 outputs; weight [numbers, columns]. */
INLINE void outputs_tile(const float *const *x, const int32_t *number, long numbers, long length,
                         const float *weight, long columns, const float *bias, f8 sum[TILE][2], int vectors) {
  for (int r = 0; r < TILE; r++)
    for (int v = 0; v < vectors; v++) sum[r][v] = f8_at(bias + LANES * v);
  for (long i = 0; i < numbers; i += length)
    /* Numbers that follow one another, where there are some: an address less for each. */
    for (long k = 0, at = number[i]; k < length; k++, weight += columns)
      for (int v = 0; v < vectors; v++) {
        f8 right = f8_at(weight + LANES * v);
        for (int r = 0; r < TILE; r++) sum[r][v] += x[r][at + k] * right;
      }
}

INLINE void pools_tile(const convolution *p, const float *frame, const int32_t *base, long pool, const int32_t *number,
                       const float *weight, const float *bias, long column, float *given, int32_t *where, int vectors) {
  long apart = up(p->pools, TILE);
  f8 best[TILE][2], sum[TILE][2];
  i8 chosen[TILE][2];
  for (long j = 0; j < p->positions; j++) {
    const int32_t *at = base + j * apart + pool;
    const float *x[TILE] = {frame + at[0], frame + at[1], frame + at[2], frame + at[3]};
    if (p->length < LANES)
      outputs_tile(x, number, p->numbers, 1, weight + column, p->columns, bias + column, sum, vectors);
    else
      outputs_tile(x, number, p->numbers, p->length, weight + column, p->columns, bias + column, sum, vectors);
    for (int r = 0; r < TILE; r++)
      for (int v = 0; v < vectors; v++) {
        i8 here = (i8){0} + (int32_t)j;
        /* The first of equals, but what is no number stays. */
        i8 taken = j ? (i8)(sum[r][v] > best[r][v]) | (i8)(sum[r][v] != sum[r][v]) : (i8){0} - 1;
        best[r][v] = j ? (f8)(((i8)sum[r][v] & taken) | ((i8)best[r][v] & ~taken)) : sum[r][v];
        chosen[r][v] = j ? (here & taken) | (chosen[r][v] & ~taken) : here;
      }
  }
  for (int r = 0; r < TILE && pool + r < p->pools; r++)
    for (int v = 0; v < vectors; v++) {
      long at = (pool + r) * p->outputs + column + LANES * v, left = p->outputs - column - LANES * v;
      f8 y = best[r][v];
      if (p->relu) y = (f8)((i8)y & ~(i8)(y < 0.0f));
      left = left < LANES ? left : LANES;
      memcpy(given + at, &y, left * sizeof(float)), memcpy(where + at, &chosen[r][v], left * sizeof(int32_t));
    }
}

/* x [rows, lines, line] fills frames [rows, frame], whose other numbers stay. base [positions, pools up to TILE]: where a
   position's window begins; number [numbers]: where its numbers are from there. weight [numbers, columns], bias
   [columns]. given [rows, pools, outputs], and which of its pool's positions each is from. */
void fedkit_convolve(const convolution *p, const int32_t *base, const int32_t *number, const float *weight,
                    const float *bias, const float *x, int64_t rows, float *frames, float *given, int32_t *where) {
  for (long row = 0; row < rows; row++) {
    float *frame = frames + row * p->frame;
    for (long i = 0; i < p->lines; i++, x += p->line)
      memcpy(frame + p->from + i * p->apart, x, p->line * sizeof(float));
    long column = 0;
    for (; column + 2 * LANES <= p->columns; column += 2 * LANES)
      for (long pool = 0; pool < p->pools; pool += TILE)
        pools_tile(p, frame, base, pool, number, weight, bias, column, given, where, 2);
    for (long pool = 0; pool < p->pools && column < p->columns; pool += TILE)
      pools_tile(p, frame, base, pool, number, weight, bias, column, given, where, 1);
    given += p->pools * p->outputs, where += p->pools * p->outputs;
  }
}

/* A row's errors before the function [pools, columns] and turned [columns, pools up to LANES]; where each one's window
   begins, turned, and where its kernel does [pools, columns]; chosen: room for [pools up to LANES, columns]. */
typedef struct {
  float *error, *turned;
  int32_t *kernel, *place, *chosen;
} errors;

static void errors_of(const convolution *p, const int32_t *base, const int32_t *amid, const float *error,
                      const float *given, const int32_t *where, const errors *e) {
  long wide = up(p->pools, LANES), columns = p->columns, apart = up(p->pools, TILE);
  for (long pool = 0; pool < p->pools; pool++, error += p->outputs, given += p->outputs, where += p->outputs) {
    float *mine = e->error + pool * columns;
    if (p->relu)
      for (long o = 0; o < p->outputs; o++) mine[o] = given[o] <= 0.0f ? 0.0f : error[o];
    else
      memcpy(mine, error, p->outputs * sizeof(float));
    memcpy(e->chosen + pool * columns, where, p->outputs * sizeof(int32_t));
    int32_t *kernel = e->kernel + pool * columns;
    if (amid)
      for (long o = 0; o < p->outputs; o++) kernel[o] = (int32_t)(o * p->field) + amid[where[o]];
  }
  for (long o = 0; o < columns; o += LANES)
    for (long pool = 0; pool < wide; pool += LANES) {
      long from = pool * columns + o, to = o * wide + pool;
      transpose8(e->error + from, columns, e->turned + to, wide);
      transpose8((const float *)e->chosen + from, columns, (float *)e->place + to, wide);
    }
  int32_t inside[p->positions];
  for (long j = 0; j < p->positions; j++) inside[j] = base[j * apart] - base[0];
  for (long o = 0; o < p->outputs; o++)
    for (long i = 0; i < p->pools; i++) e->place[o * wide + i] = base[i] + inside[e->place[o * wide + i]];
}

/* Of some outputs, the sum over all pools of error times the window's vectors from start on. */
INLINE void slope_run(const float *frame, const int32_t *start, const float *error, const int32_t *place, long wide,
                      long pools, float *into, long apart, int outputs, int vectors) {
  const float *x[6];
  f8 sum[6] = {0};
  for (int v = 0; v < vectors; v++) x[v] = frame + start[v];
  for (long i = 0; i < pools; i++)
    for (int o = 0; o < outputs; o++) {
      float e = error[o * wide + i];
      long at = place[o * wide + i];
      for (int v = 0; v < vectors; v++) sum[o * vectors + v] += e * f8_at(x[v] + at);
    }
  for (int o = 0; o < outputs; o++)
    for (int v = 0; v < vectors; v++) *(f8 *)(into + o * apart + LANES * v) = sum[o * vectors + v];
}

INLINE void slope_runs(const convolution *p, const float *frame, const int32_t *start, const float *error,
                       const int32_t *place, float *into, int outputs, int vectors) {
  long wide = up(p->pools, LANES), apart = p->vectors * LANES;
  for (long v = 0; v + vectors <= p->vectors; v += vectors)
    slope_run(frame, start + v, error, place, wide, p->pools, into + LANES * v, apart, outputs, vectors);
}

/* sums: two rows of vectors. */
static void slopes(const convolution *p, const float *frame, const int32_t *start, const float *errors,
                   const int32_t *places, float *sums, float *told) {
  long wide = up(p->pools, LANES), whole = up(p->length, LANES);
  for (long o = 0; o < p->outputs; o += 2) {
    const float *error = errors + o * wide;
    const int32_t *place = places + o * wide;
    /* One behind the last is there, of zeros: columns are even. */
    if (p->vectors % 6 == 0) {
      slope_runs(p, frame, start, error, place, sums, 1, 6);
      slope_runs(p, frame, start, error + wide, place + wide, sums + p->vectors * LANES, 1, 6);
    } else if (p->vectors % 3 == 0) {
      slope_runs(p, frame, start, error, place, sums, 2, 3);
    } else if (p->vectors % 2 == 0) {
      slope_runs(p, frame, start, error, place, sums, 2, 2);
    } else {
      slope_runs(p, frame, start, error, place, sums, 2, 1);
    }
    for (long of = o; of < o + 2 && of < p->outputs; of++) {
      const float *sum = sums + (of - o) * p->vectors * LANES;
      for (long i = 0; i < p->numbers; i += p->length, sum += whole, told += p->length)
        memcpy(told, sum, p->length * sizeof(float));
      if (!p->bias) continue;
      float all = 0.0f;
      for (long i = 0; i < p->pools; i++) all += errors[of * wide + i];
      *told++ = all;
    }
  }
}

INLINE void spread_run(const float *error, const int32_t *kernel, long outputs, const float *kernels, float *into,
                       long left, int vectors) {
  f8 sum[8] = {0};
  for (long o = 0; o < outputs; o++) {
    float e = error[o];
    const float *k = kernels + kernel[o];
    for (int v = 0; v < vectors; v++) sum[v] += e * f8_at(k + LANES * v);
  }
  for (int v = 0; v < vectors; v++, into += LANES, left -= LANES) {
    if (left >= LANES)
      *(f8 *)into += sum[v];
    else
      for (long i = 0; i < left; i++) into[i] += sum[v][i];
  }
}

/* Adds each pool's errors times kernels to what it saw of the frame. */
static void spread(const convolution *p, const int32_t *base, const errors *e, const float *kernels, float *frame) {
  for (long f = 0; f < p->prints; f++)
    for (long pool = 0; pool < p->pools; pool++) {
      const float *error = e->error + pool * p->columns, *k = kernels + f * p->pitch;
      const int32_t *kernel = e->kernel + pool * p->columns;
      float *into = frame + base[pool] + f * p->apart;
      long at = 0;
      for (; at + 6 * LANES < p->print; at += 8 * LANES)
        spread_run(error, kernel, p->outputs, k + at, into + at, p->print - at, 8);
      for (; at + 2 * LANES < p->print; at += 4 * LANES)
        spread_run(error, kernel, p->outputs, k + at, into + at, p->print - at, 4);
      for (; at < p->print; at += 2 * LANES)
        spread_run(error, kernel, p->outputs, k + at, into + at, p->print - at, 2);
    }
}

/* error [rows, pools, outputs], with frames, given and where as they came from fedkit_convolve, and its base. start
   [vectors]: where a window's vectors are from its beginning. amid [positions]: where a print begins in a kernel's field;
   kernels [outputs, field], with as much behind them as a print's vectors may read. told: where each row's derivative
   [outputs, numbers and bias] goes, or none. slope [rows, lines, line], or none. room: floats, of 5 * columns * (pools up
   to LANES), zeros, and two rows of vectors and a frame. */
void fedkit_convolve_back(const convolution *p, const int32_t *base, const int32_t *start, const int32_t *amid,
                          const float *kernels, const float *error, int64_t rows, const float *frames,
                          const float *given, const int32_t *where, float *const *told, float *slope, float *room) {
  long turns = p->columns * up(p->pools, LANES), numbers = p->pools * p->outputs;
  errors e = {room, room + turns, (int32_t *)(room + 2 * turns), (int32_t *)(room + 3 * turns), (int32_t *)(room + 4 * turns)};
  float *sums = room + 5 * turns, *whole = sums + 2 * p->vectors * LANES;
  for (long row = 0; row < rows; row++) {
    errors_of(p, base, slope ? amid : 0, error + row * numbers, given + row * numbers, where + row * numbers, &e);
    if (told) slopes(p, frames + row * p->frame, start, e.turned, e.place, sums, told[row]);
    if (!slope) continue;
    memset(whole, 0, p->frame * sizeof(float));
    spread(p, base, &e, kernels, whole);
    for (long i = 0; i < p->lines; i++, slope += p->line)
      memcpy(slope, whole + p->from + i * p->apart, p->line * sizeof(float));
  }
}
