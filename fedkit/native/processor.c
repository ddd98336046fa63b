/* What these files were, and what this processor can run. */

const char *fedkit_sources(void) { return FEDKIT_SOURCES; }

/* Whether the library for wide vectors can be used. */
int fedkit_wide(void) {
#if defined(__x86_64__) && defined(__GNUC__)
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
#else
  return 0;
#endif
}
