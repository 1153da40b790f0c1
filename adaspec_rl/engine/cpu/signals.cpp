// What rows of logits say about their tokens, as `decoding/signals.py` defines it.

#include <cmath>

#include <algorithm>
#include <limits>

#include "vectors.h"

namespace {

constexpr float NONE = -std::numeric_limits<float>::infinity();

struct Largest {
    float first = NONE, second = NONE;

    void see(float value) {
        second = std::max(second, std::min(first, value));
        first = std::max(first, value);
    }
    // How far number `index` of the row is above every other, at most `limit`.
    float lead(float own, float limit) const {
        return std::min(own - (own == first ? second : first), limit);
    }
};

Largest largest(const float* row, int64_t width) {
    Vec first = NONE, second = NONE;
    int64_t n = 0;
    for (; n + LANES <= width; n += LANES) {
        const Vec values = load(row + n);
        second = larger(second, smaller(first, values));
        first = larger(first, values);
    }
    Largest found;
    for (int lane = 0; lane < LANES; lane++) found.see(first[lane]), found.see(second[lane]);
    for (; n < width; n++) found.see(row[n]);
    return found;
}

struct Mass {
    float total;     // sum of e^(x - top)
    float weighted;  // sum of (x - top) e^(x - top)
};

Mass mass(const float* row, int64_t width, float top) {
    Vec total = 0, weighted = 0;
    for (int64_t n = 0; n < width; n += LANES) {
        Vec distance = load_some(row + n, width - n) - top;
        for (int64_t lane = width - n; lane < LANES; lane++) distance.set(lane, NONE);
        const Vec share = exponential(distance);
        total += share;
        weighted += share * larger(distance, -1e30f);  // 0 for numbers without a chance
    }
    return {sum_of(total), sum_of(weighted)};
}

}  // namespace

// Entropy in nats and largest probability of one row.
extern "C" void target_signals(const float* row, int64_t width, double* found) {
    const Mass all = mass(row, width, largest(row, width).first);
    found[0] = std::log(all.total) - all.weighted / all.total;
    found[1] = 1 / all.total;
}

// Signals of a token in each of `rows` rows, [rows][4]. Null: `log_probs` or `scores` are `logits`.
extern "C" void draft_signals(const float* logits, const float* log_probs, const float* scores,
                              const int64_t* tokens, int64_t rows, int64_t width, float limit,
                              int64_t threads, float* found) {
#pragma omp parallel for num_threads(threads) schedule(static) if (rows > 16)
    for (int64_t n = 0; n < rows; n++) {
        const float* own = logits + n * width;
        const Largest top = largest(own, width);
        const Mass all = mass(own, width, top.first);
        float* out = found + 4 * n;
        if (log_probs) {
            const float* drawn = log_probs + n * width;
            const float most = largest(drawn, width).first;
            out[0] = drawn[tokens[n]] - most - std::log(mass(drawn, width, most).total);
        } else {
            out[0] = own[tokens[n]] - top.first - std::log(all.total);
        }
        out[1] = std::log(all.total) - all.weighted / all.total;
        const float margin = scores ? top.lead(top.first, limit) : top.lead(own[tokens[n]], limit);
        out[2] = margin;
        out[3] = margin;
        if (scores) {
            const float* weighed = scores + n * width;
            out[3] = largest(weighed, width).lead(weighed[tokens[n]], limit);
        }
    }
}
