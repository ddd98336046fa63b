#ifndef FEDKIT_PRIVATE_H
#define FEDKIT_PRIVATE_H

#include "stack.h"

/* What a site's plan says, in the order in which Python writes it. before: steps of the round that are done. */
typedef struct {
  int64_t task, steps, before, places, bits_u, bits_v, lattice_bits, adam;
  double clip, to_mean, rate, mu;
} plan;

/* Some steps of one site. parameters [d], in place; x [any, inputs] and y of all rows that index names; step t's lot are
   the rows index[ends[t]] .. index[ends[t + 1] - 1]; noise [steps, d], whole numbers; state: floats of fedkit_state, kept
   by the caller from the first step on, or null where neither FedProx nor Adam is; memory: of fedkit_private_memory.
   0, or 1 and nothing done where a class is none. */
int fedkit_private(const layer *layers, int64_t count, const plan *p, float *parameters, const float *x, const void *y,
                   const int64_t *index, const int64_t *ends, const double *noise, float *state, double *memory);

#endif
