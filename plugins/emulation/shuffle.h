// Random orders that a seed decides.
#pragma once

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

namespace emulation {

inline uint64_t random_state = 1;  // never 0

inline uint64_t random_bits()
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return random_state * 0x2545F4914F6CDD1DULL;
}

inline size_t random_below(size_t limit)
{
    return static_cast<size_t>((random_bits() >> 32) * limit >> 32);
}

inline void shuffle(std::vector<unsigned>& order)
{
    for (size_t left = order.size(); left > 1; --left) {
        std::swap(order[random_below(left)], order[left - 1]);
    }
}

inline std::vector<unsigned> shuffled(unsigned count)
{
    std::vector<unsigned> order(count);
    std::iota(order.begin(), order.end(), 0U);
    shuffle(order);
    return order;
}

}  // namespace emulation
