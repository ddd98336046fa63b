/* How slopes move a site's weights: SGD, or Adam as torch has it by default, with FedProx's term. */
#ifndef FEDKIT_DESCENT_H
#define FEDKIT_DESCENT_H

#include <math.h>

#include "stack.h"

/* Beyond it a private site's parameters are cut back. */
#define PARAMETER_LIMIT 1e6f

/* What lasts from step to step, [outs, ins] of each layer one after another: the received weights, where FedProx asks
   for them, and Adam's moments; count: of steps so far. A null pointer where nothing asks for it. */
typedef struct {
  float *anchor, *mean, *square;
  double rate, mu;
  long adam, count;
  float alpha, root;
} descent;

/* floats that a descent keeps for a stack: three times as many numbers as the weights have places. */
INLINE long descent_places(const layer *layers, long count) {
  long places = 0;
  for (long k = 0; k < count; k++)
    places += up(layers[k].outputs, TILE) * up(layers[k].inputs + layers[k].bias, LANES);
  return places;
}

/* In memory of three times descent_places, or null where neither FedProx nor Adam is. Before the first step the weights
   are the received ones. */
INLINE descent descent_in(float *memory, long places, const stack *s, double rate, double mu, long adam, long count) {
  descent d = {memory, memory ? memory + places : 0, memory ? memory + 2 * places : 0, rate, mu, adam, count, 0.0f, 1.0f};
  if (memory && !count) {
    memset(memory, 0, 3 * places * sizeof(float));
    for (long k = 0, at = 0; k < s->count; k++) {
      const part *l = s->parts + k;
      memcpy(d.anchor + at, l->weight, l->outs * l->ins * sizeof(float));
      at += l->outs * l->ins;
    }
  }
  return d;
}

/* Before each step. */
INLINE void descent_next(descent *d) {
  d->count++;
  d->alpha = (float)(d->adam ? -d->rate / (1.0 - pow(0.9, d->count)) : -d->rate);
  d->root = (float)sqrt(1.0 - pow(0.999, d->count));
}

/* Move count weights that begin at a place; slope is overwritten. */
INLINE void descend(const descent *d, float *w, float *slope, long at, long count) {
  if (d->mu != 0.0) {
    const float *anchor = d->anchor + at;
    for (long i = 0; i < count; i++) slope[i] += (float)d->mu * (w[i] - anchor[i]);
  }
  if (d->adam) {
    float *mean = d->mean + at, *square = d->square + at;
    for (long i = 0; i < count; i++) {
      mean[i] += 0.1f * (slope[i] - mean[i]);
      square[i] = square[i] * 0.999f + 0.001f * slope[i] * slope[i];
      slope[i] = mean[i] / (sqrtf(square[i]) / d->root + 1e-8f);
    }
  }
  for (long i = 0; i < count; i++) w[i] += d->alpha * slope[i];
}

INLINE void bounded(float *w, long count) {
  for (long i = 0; i < count; i++) {
    float now = w[i] == w[i] ? w[i] : 0.0f;
    now = now < PARAMETER_LIMIT ? now : PARAMETER_LIMIT;
    w[i] = now > -PARAMETER_LIMIT ? now : -PARAMETER_LIMIT;
  }
}

#endif
