// CUDA C on threads of the host, so that kernels run without a card: a block is so many threads, blocks go one after
// the other, and __syncthreads is a barrier.
#include <barrier>
#include <cmath>
#include <cstddef>
#include <thread>
#include <vector>
using std::sqrt;

struct Index {
    int x, y;
};
static thread_local Index threadIdx, blockIdx;
static Index blockDim, gridDim;
static std::barrier<>* gate;
double memory[1 << 15];  // what "extern __shared__" finds

#define __global__ static
#define __device__ static
#define __forceinline__ inline
#define __shared__
#define __restrict__
#define __launch_bounds__(...)
#define __syncthreads() gate->arrive_and_wait()

// kernel() by every thread of every block.
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
