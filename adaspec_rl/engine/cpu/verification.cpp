// How much of a draft agrees with the target's own choices.

#include "choose.h"

// Returns how many of the `drafted` tokens are the target's choices; `next` is its choice after
// them. Rows of `logits` have `width` numbers; `noise` has a row for each of them, or is null. Rows
// after the first that differs are not read.
extern "C" int64_t agreement(const float* logits, int64_t width, float temperature,
                             const float* const* noise, const int64_t* tokens, int64_t drafted,
                             int64_t* next) {
    int64_t n = 0;
    while (true) {
        *next = choose(logits + n * width, width, temperature, noise ? noise[n] : nullptr);
        if (n == drafted || *next != tokens[n]) return n;
        n++;
    }
}
