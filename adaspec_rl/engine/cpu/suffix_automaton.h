// The suffix automaton of a text, as `decoding/suffix_automaton.py` explains it.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

// The end of a text and its draft.
struct Suffix {
    int64_t state, match;
    int64_t guess;  // negative: there is no match
};

class SuffixAutomaton {
  public:
    SuffixAutomaton() : slots(64, NONE) { add_state(0, 0); }

    int64_t match() const { return length[std::max(0, link[last])]; }

    void append(int32_t token) {
        keep_up();
        tokens.push_back(token);
        grow(token);
    }

    Suffix suffix() const {
        const int32_t state = std::max(0, link[last]);
        Suffix found{state, length[state], NONE};
        look(found);
        return found;
    }

    void append(Suffix& end, int32_t token) const {
        int32_t state = int32_t(end.state), edge = find(state, token);
        if (edge == NONE) {
            do state = link[state];
            while (state >= 0 && (edge = find(state, token)) == NONE);
            if (state < 0) {
                end = {0, 0, NONE};
                return;
            }
            end.match = length[state];
        }
        end.state = edges[edge].target;
        end.match++;
        look(end);
    }

  private:
    static constexpr int32_t NONE = -1, RECENT = 32;

    // What may follow a state. The edges of a state form a list.
    struct Edge {
        int32_t state, token, target, next;
    };

    std::vector<int32_t> tokens;
    std::vector<int32_t> link, length, stop, first;  // by state; `first` of its edges
    std::vector<Edge> edges;
    std::vector<int32_t> slots;  // a hash table of edges
    int32_t last = 0;            // the state of the whole text

    int32_t add_state(int32_t run, int32_t end) {
        link.push_back(link.empty() ? NONE : 0);
        length.push_back(run), stop.push_back(end), first.push_back(NONE);
        return int32_t(link.size()) - 1;
    }

    // The slot of an edge, or the free one where it belongs.
    size_t place(int32_t state, int32_t token) const {
        const uint64_t key = uint64_t(uint32_t(state)) << 32 | uint32_t(token);
        size_t at = (key * 0x9E3779B97F4A7C15 >> 32) & (slots.size() - 1);
        while (slots[at] != NONE && (edges[slots[at]].state != state || edges[slots[at]].token != token))
            at = (at + 1) & (slots.size() - 1);
        return at;
    }

    int32_t find(int32_t state, int32_t token) const { return slots[place(state, token)]; }

    void add_edge(int32_t state, int32_t token, int32_t target) {
        if (2 * edges.size() >= slots.size()) {
            slots.assign(2 * slots.size(), NONE);
            for (size_t n = 0; n < edges.size(); n++) slots[place(edges[n].state, edges[n].token)] = int32_t(n);
        }
        const size_t at = place(state, token);
        edges.push_back({state, token, target, first[state]});
        slots[at] = first[state] = int32_t(edges.size()) - 1;
    }

    // Note that the text's suffixes also occur here; done late, once a token follows.
    void keep_up() {
        int32_t state = link[last];
        for (int n = 0; n < RECENT && state > 0; n++, state = link[state]) stop[state] = int32_t(tokens.size());
    }

    void grow(int32_t token) {
        int32_t state = last, edge = NONE;
        last = add_state(length[state] + 1, int32_t(tokens.size()));
        for (; state >= 0 && (edge = find(state, token)) == NONE; state = link[state]) add_edge(state, token, last);
        if (state < 0) return;
        const int32_t known = edges[edge].target;
        if (length[known] == length[state] + 1) {
            link[last] = known;
            return;
        }
        // Some of the runs that end where `known` does now also end here: they need their own state.
        const int32_t shorter = add_state(length[state] + 1, stop[known]);
        for (int32_t n = first[known]; n != NONE; n = edges[n].next) add_edge(shorter, edges[n].token, edges[n].target);
        link[shorter] = link[known];
        link[known] = link[last] = shorter;
        for (; state >= 0 && (edge = find(state, token)) != NONE && edges[edge].target == known; state = link[state])
            edges[edge].target = shorter;
    }

    void look(Suffix& end) const {
        while (end.state && stop[end.state] == int32_t(tokens.size())) {  // the end itself: nothing follows
            end.state = link[end.state];
            end.match = length[end.state];
        }
        end.guess = end.state ? tokens[stop[end.state]] : NONE;
    }
};
