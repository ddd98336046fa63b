#ifndef FEDKIT_GAUSSIAN_H
#define FEDKIT_GAUSSIAN_H

#include <stdint.h>

/* Pairs of normals of standard deviation scale, rounded. words [rows, 2, pairs]: U's and V's; cosine [rows, pairs] and
   sine [rows, sines], sines being pairs or one less, each row apart doubles behind the one before. doubtful [rows *
   pairs]: numbers, in order, of the pairs whose rounding further bits must decide; how many they are is returned. */
int fedkit_gaussian(const uint64_t *words, int64_t rows, int64_t pairs, int64_t sines, double scale, double *cosine,
                    double *sine, int64_t apart, int64_t *doubtful);

#endif
