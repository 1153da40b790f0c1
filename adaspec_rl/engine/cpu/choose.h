// How a token is chosen from a row of logits.

#pragma once

#include <algorithm>
#include <limits>

#include "vectors.h"

namespace {

// The index of the largest logit / temperature + noise, the first on ties; `noise` may be null.
int64_t choose(const float* logits, int64_t choices, float temperature, const float* noise) {
    const Ints lanes = lane_numbers();
    Vec largest = -std::numeric_limits<float>::infinity();
    Ints where = {};
    for (int64_t i = 0; i < choices; i += LANES) {
        const int64_t count = std::min<int64_t>(LANES, choices - i);
        Vec score = load_some(logits + i, count) / temperature;
        if (noise) score += load_some(noise + i, count);
        const Ints larger = (score > largest) & (lanes < int32_t(count));
        largest = chosen(larger, score, largest);
        where = chosen(larger, lanes + int32_t(i), where);
    }
    int64_t best = 0;
    for (int64_t n = 1; n < LANES; n++)
        if (largest[n] > largest[best] || (largest[n] == largest[best] && where[n] < where[best])) best = n;
    return where[best];
}

}  // namespace
