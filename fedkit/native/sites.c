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

/* noise [steps, d], in the order of fedkit.privacy.rounded_gaussian; how many pairs are doubtful. */
static int noise_of(const site *s, const schedule *keys, int64_t d, uint64_t *words, double *noise, int64_t *doubtful) {
  int64_t pairs = (d + 1) / 2, found = 0;
  for (int64_t t = 0; t < s->told->steps && !found; t++, noise += d) {
    keystream(keys, NOISE, t * pairs, words, 2 * pairs);
    found = fedkit_gaussian(words, 1, pairs, d - pairs, s->scale, noise, noise + pairs, d, doubtful);
  }
  return found;
}

/* Draw and train, one site after another, all of a site's steps together. words [most steps * units, and 2 * ceil(d / 2)],
   doubtful [ceil(d / 2)], index, ends, noise: to work in; state and memory: as of fedkit_private. How many sites are done:
   the next one, if there is one, has a pair whose rounding further bits must decide, or a class that is none, and is as it
   was. */
int64_t fedkit_sites(const layer *layers, int64_t count, const site *sites, int64_t many, int64_t d, uint64_t *words,
                     int64_t *doubtful, int64_t *index, int64_t *ends, double *noise, float *state, double *memory) {
  for (int64_t k = 0; k < many; k++) {
    const site *s = sites + k;
    schedule keys;
    schedule_of(s->key, &keys);
    lots_of(s, &keys, words, index, ends);
    int open = noise_of(s, &keys, d, words, noise, doubtful);
    schedule_forget(&keys);
    if (open) return k;
    if (fedkit_private(layers, count, s->told, s->parameters, s->x, s->y, index, ends, noise, state, memory)) return k;
  }
  return many;
}
