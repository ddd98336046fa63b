#include "gaussian.h"
#include "keystream.h"
#include "private.h"

/* Segments of a key: see fedkit.privacy.randomness. */
enum segment { LOTS, NOISE };

/* One site as Python writes it: addresses, the key that its lots and noise follow from, and its plan. Who has fewer than
   below of 64 random bits joins a lot, or everyone does; noise has standard deviation scale; order [units]: each unit's
   row; parameters [d], in place. */
typedef struct {
  const float *x;
  const void *y;
  const int64_t *order;
  float *parameters;
  const plan *told;
  uint64_t below;
  int64_t everyone, units;
  double scale;
  uint8_t key[32];
} site;

/* index [steps * units]: the rows of the lots, one lot after another; ends [steps + 1]: where each begins and the last
   ends. */
static void lots_of(const site *s, const schedule *keys, uint64_t *words, int64_t *index, int64_t *ends) {
  int64_t found = 0, steps = s->told->steps;
  keystream(keys, LOTS, 0, words, steps * s->units);
  for (int64_t t = 0; t < steps; t++) {
    ends[t] = found;
    for (int64_t u = 0; u < s->units; u++) {
      index[found] = s->order[u];
      found += (*words++ < s->below) | s->everyone;
    }
  }
  ends[steps] = found;
}

/* Where a call stopped: pairs [.. open] of a step of a site whose rounding further bits must decide; open is 0 where a
   class of the site is none. from: the step from which on noise is to be drawn, 0 unless a call goes on. */
typedef struct {
  int64_t site, step, open, from;
} halt;

/* noise [steps, d], in the order of fedkit.privacy.rounded_gaussian: whether all of it is settled. */
static int noise_of(const site *s, const schedule *keys, int64_t d, uint64_t *words, double *noise, int64_t *doubtful,
                    halt *at) {
  int64_t pairs = (d + 1) / 2;
  for (at->step = at->from; at->step < s->told->steps; at->step++) {
    double *row = noise + at->step * d;
    keystream(keys, NOISE, at->step * pairs, words, 2 * pairs);
    at->open = fedkit_gaussian(words, 1, pairs, d - pairs, s->scale, row, row + pairs, d, doubtful);
    if (at->open) return 0;
  }
  /* Where the last step's pairs were put right, its halt still tells of them. */
  at->from = at->open = 0;
  return 1;
}

/* Draw and train, one site after another, all of a site's steps together: 0, or 1 where it stopped before the end, with
   the site as it was. To go on, put the pairs right in noise and set from to the next step.
   words [most steps * units, and 2 * ceil(d / 2)], doubtful [ceil(d / 2)], index, ends, noise: to work in, and to be kept
   until all is done; state and memory: as of fedkit_private. */
int fedkit_sites(const layer *layers, int64_t count, const site *sites, int64_t many, int64_t d, halt *at, uint64_t *words,
                 int64_t *doubtful, int64_t *index, int64_t *ends, double *noise, float *state, double *memory) {
  for (; at->site < many; at->site++) {
    const site *s = sites + at->site;
    schedule keys;
    schedule_of(s->key, &keys);
    if (!at->from) lots_of(s, &keys, words, index, ends);
    int settled = noise_of(s, &keys, d, words, noise, doubtful, at);
    schedule_forget(&keys);
    if (!settled) return 1;
    if (fedkit_private(layers, count, s->told, s->parameters, s->x, s->y, index, ends, noise, state, memory)) return 1;
  }
  return 0;
}
