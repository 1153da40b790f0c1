// How much of a draft agrees with the target's own choices.

#include <numeric>

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

// `agreement` for each of `rows` texts, whose noise and drafts stand one after another. Text `n` has
// `drafted[n] + 1` rows of logits.
extern "C" void agreements(int64_t rows, const float* const* logits, int64_t width, float temperature,
                           const float* const* noise, const int64_t* tokens, const int64_t* drafted,
                           int64_t threads, int64_t* accepted, int64_t* next) {
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (rows * width > 1 << 16)
    for (int64_t n = 0; n < rows; n++) {
        const int64_t first = std::accumulate(drafted, drafted + n, int64_t(0));
        accepted[n] = agreement(logits[n], width, temperature, noise ? noise + first + n : nullptr,
                                tokens + first, drafted[n], next + n);
    }
}
