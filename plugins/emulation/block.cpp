#include "block.h"

#include <algorithm>
#include <bit>

#include "shuffle.h"

namespace emulation {

Block block;

namespace {

std::string text_of(Where where)
{
    return std::string(where.file_name()) + ":" + std::to_string(where.line());
}

std::string waiting_at(Barrier const& barrier, char const* whom)
{
    if (barrier.waiting.empty()) {
        return "";
    }
    return ", " + std::to_string(barrier.waiting.size()) + " wait for " + whom + " at " + text_of(*barrier.where);
}

bool is_elsewhere(Barrier const& barrier, Where where)
{
    return barrier.where && (barrier.where->line() != where.line() || barrier.where->column() != where.column());
}

}  // namespace

std::string Block::run(unsigned threads, Body body, void const* arguments)
{
    prepare(threads, body, arguments);
    if (_setjmp(launcher_) == 0) {
        run_next();
    }
    if (!fault_.empty()) {  // fibers stand in the middle of threads that will not go on
        idle_.clear();
        fibers_.clear();
    }
    return fault_;
}

void Block::prepare(unsigned threads, Body body, void const* arguments)
{
    body_ = body;
    arguments_ = arguments;
    threads_ = threads;
    ended_ = 0;
    fault_.clear();
    fiber_of_.assign(threads, nullptr);
    all_ = {threads};
    exchanges_.assign((threads + kWarp - 1) / kWarp, {});
    ready_.clear();
    make_all_ready();
}

void Block::make_all_ready()
{
    for (unsigned const warp : shuffled(static_cast<unsigned>(exchanges_.size()))) {
        for (unsigned const lane : shuffled(std::min(kWarp, threads_ - warp * kWarp))) {
            ready_.push_back(warp * kWarp + lane);
        }
    }
}

// What a fiber does: one thread after another.
void Block::run_threads()
{
    for (;;) {
        block.body_(block.arguments_);
        ++block.ended_;
        block.idle_.push_back(block.fiber_);
        block.fiber_->leave([] { block.run_next(); });
    }
}

void Block::run_next()
{
    if (ready_.empty()) {
        end();
    }
    make_current(ready_.back());
    ready_.pop_back();
    Fiber*& fiber = fiber_of_[thread_];
    if (fiber == nullptr) {
        fiber = &idle_fiber();
    }
    fiber_ = fiber;
    fiber_->resume();
}

void Block::end()
{
    if (ended_ == threads_) {
        _longjmp(launcher_, 1);
    }
    std::string fault = std::to_string(ended_) + " of " + std::to_string(threads_) + " threads have ended";
    fault += waiting_at(all_, "the whole block");
    for (auto const& of_warp : exchanges_) {
        for (auto const& [mask, exchange] : of_warp) {
            fault += waiting_at(exchange.barrier, "lanes of their warp");
        }
    }
    stop(fault);
}

void Block::make_current(unsigned thread)
{
    thread_ = thread;
    dim3 const& size = blockDim;
    threadIdx = {thread % size.x, thread / size.x % size.y, thread / (size.x * size.y)};
}

Fiber& Block::idle_fiber()
{
    if (idle_.empty()) {
        fibers_.push_back(std::make_unique<Fiber>(run_threads));
        return *fibers_.back();
    }
    Fiber* const fiber = idle_.back();
    idle_.pop_back();
    return *fiber;
}

void Block::wait(Barrier& barrier, Where where)
{
    if (is_elsewhere(barrier, where)) {
        stop("threads wait for each other in two places: " + text_of(*barrier.where) + " and " + text_of(where));
    }
    barrier.where = where;
    barrier.waiting.push_back(thread_);
    if (barrier.waiting.size() == barrier.expected) {
        release(barrier);
    }
    fiber_->leave([] { block.run_next(); });
}

void Block::release(Barrier& barrier)
{
    if (&barrier == &all_) {
        make_all_ready();
    } else {
        shuffle(barrier.waiting);
        ready_.insert(ready_.end(), barrier.waiting.begin(), barrier.waiting.end());
    }
    barrier.waiting.clear();
    barrier.where.reset();
}

uint64_t const* Block::exchange(unsigned mask, uint64_t value, Where where)
{
    if ((mask >> lane() & 1U) == 0) {
        stop("a thread is not in its own mask at " + text_of(where));
    }
    Exchange& exchange = exchanges_[thread_ / kWarp][mask];
    exchange.barrier.expected = static_cast<unsigned>(std::popcount(mask));
    uint64_t* const values = exchange.values[exchange.round];
    values[lane()] = value;
    if (exchange.barrier.waiting.size() + 1 == exchange.barrier.expected) {
        exchange.round ^= 1U;
    }
    wait(exchange.barrier, where);
    return values;
}

// The frames between here and the launcher are left where they stand; what they own is lost, once a fault.
void Block::stop(std::string const& fault)
{
    fault_ = fault;
    _longjmp(launcher_, 1);
}

void wait_for_block(Where where)
{
    block.wait_for_all(where);
}

uint64_t const* exchange(unsigned mask, uint64_t value, Where where)
{
    return block.exchange(mask, value, where);
}

int own_lane()
{
    return block.lane();
}

}  // namespace emulation
