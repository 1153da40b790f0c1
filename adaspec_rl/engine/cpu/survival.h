// The chance that a drafted token will be accepted, as `SurvivalHead` in `decoding/survival.py` estimates it.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

// Curves are linear between knots and constant beyond; a curve has its values, then its slopes.
struct SurvivalHead {
    const double* agreement;  // [agreements][2][margins]
    const double* surprise;   // [2][surprises]; null: not used
    const double *token, *previous;
    const double *margins, *surprises;  // the knots
    int64_t margin_count, surprise_count;
    int64_t match_limit;

    double chance(int64_t now, int64_t before, double log_prob, double margin, int64_t match, bool agrees) const {
        int64_t row = 0;
        if (match) {
            for (int64_t size = std::min(match, match_limit); size; size /= 2) row += 2;
            row += agrees - 1;
        }
        double odds = read(agreement + row * 2 * margin_count, margins, margin_count, margin);
        odds += token[now] + previous[before];
        if (surprise) odds += read(surprise, surprises, surprise_count, -log_prob);
        return 1 / (1 + std::exp(-odds));
    }

  private:
    static double read(const double* curve, const double* knots, int64_t count, double x) {
        x = std::min(x, knots[count - 1]);
        const int64_t at = std::upper_bound(knots, knots + count, x) - knots - 1;
        return at < 0 ? curve[0] : curve[at] + curve[count + at] * (x - knots[at]);
    }
};
