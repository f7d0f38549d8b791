// CUDA C on the host, so that kernels run without a card. Blocks go one after the other. The threads of a block are
// contexts that change places at every __syncthreads, which is as good as a barrier and far faster than one of 256 true
// threads; with REAL_THREADS they are threads of the host, for the thread sanitizer.
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <vector>
using std::sqrt;

struct Index {
    int x, y;
};
static Index blockDim, gridDim;
double memory[1 << 15];  // what "extern __shared__" finds

#define __global__ static
#define __device__ static
#define __forceinline__ inline
#define __shared__
#define __restrict__
#define __launch_bounds__(...)

// launch: kernel() by every thread of every block.

#ifdef REAL_THREADS

#include <barrier>
#include <thread>

static thread_local Index threadIdx, blockIdx;
static std::barrier<>* gate;
#define __syncthreads() gate->arrive_and_wait()

template <typename F>
static void launch(Index grid, Index block, F kernel) {
    blockDim = block;
    gridDim = grid;
    std::barrier<> all(block.x * block.y);
    gate = &all;
    std::vector<std::thread> threads;
    for (int t = 0; t < block.x * block.y; ++t)
        threads.emplace_back([=] {
            threadIdx = {t % block.x, t / block.x};
            for (int y = 0; y < grid.y; ++y)
                for (int x = 0; x < grid.x; ++x) {
                    blockIdx = {x, y};
                    kernel();
                    gate->arrive_and_wait();
                }
        });
    for (auto& thread : threads) thread.join();
}

#else

#include <ucontext.h>

static Index threadIdx, blockIdx;

// The threads of one block, each run up to its next barrier, in turn.
struct Block {
    static constexpr int STACK = 1 << 16;
    ucontext_t home;
    std::vector<ucontext_t> threads;
    std::vector<char> stacks;
    int count, now, ended;
    void (*start)();

    void resume(int t) {
        now = t;
        threadIdx = {t % blockDim.x, t / blockDim.x};
    }
    void same_barriers(bool so) {
        if (so) return;
        std::fputs("a thread waits for one that has ended\n", stderr);
        std::abort();
    }
    void wait() {
        same_barriers(!ended);
        const int t = now;
        resume((t + 1) % count);
        swapcontext(&threads[t], &threads[now]);
    }
    void run() {
        ended = 0;
        for (int t = 0; t < count; ++t) {
            getcontext(&threads[t]);
            threads[t].uc_stack.ss_sp = &stacks[std::size_t(t) * STACK];
            threads[t].uc_stack.ss_size = STACK;
            threads[t].uc_link = &home;
            makecontext(&threads[t], start, 0);
        }
        for (int t = 0; t < count; ++t) {  // thread 0 brings all others to its last barrier, and then each ends in turn
            resume(t);
            swapcontext(&home, &threads[t]);
            same_barriers(now == t);
            ++ended;
        }
    }
};
static Block* block_of_now;
#define __syncthreads() block_of_now->wait()

template <typename F>
static void launch(Index grid, Index block, F kernel) {
    static F* body;
    blockDim = block;
    gridDim = grid;
    const int count = block.x * block.y;
    Block all{{}, std::vector<ucontext_t>(count), std::vector<char>(std::size_t(count) * Block::STACK), count, 0, 0,
              [] { (*body)(); }};
    body = &kernel;
    block_of_now = &all;
    for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
        for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) all.run();
}

#endif
