// A block of CUDA threads as threads of the host, so that small.cu runs without a card: blocks one after the other.
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
static std::barrier<>* gate;
double memory[4 * 64 * 65];  // what "extern __shared__" finds

#define __global__ static
#define __device__ static
#define __forceinline__ inline
#define __shared__
#define __restrict__
#define __launch_bounds__(...)
#define __syncthreads() gate->arrive_and_wait()
#include SMALL_CU

template <typename T, int R>
static void launch(int blocks, const T* A, T* X, T* tops, T* off, int n, int steps, const double* c,
                   const int* program, double eps) {
    std::barrier<> all(EDGE * EDGE);
    gate = &all;
    std::vector<std::thread> threads;
    for (int t = 0; t < EDGE * EDGE; ++t)
        threads.emplace_back([=] {
            threadIdx = {t % EDGE, t / EDGE};
            for (int block = 0; block < blocks; ++block) {
                blockIdx = {block, 0};
                coupled<T, R>(A, X, tops, off, n, steps, c, program, eps);
                gate->arrive_and_wait();
            }
        });
    for (auto& thread : threads) thread.join();
}

extern "C" int run(int blocks, int wide, int size, const void* A, void* X, void* tops, void* off, int n, int steps,
                   const double* c, const int* program, double eps) {
#define CASE(T, R)                                                                                             \
    if (wide == (sizeof(T) == 8) && size == R) {                                                               \
        launch<T, R>(blocks, (const T*)A, (T*)X, (T*)tops, (T*)off, n, steps, c, program, eps);                \
        return 0;                                                                                              \
    }
    CASE(float, 1) CASE(float, 2) CASE(float, 3) CASE(float, 4)
    CASE(double, 1) CASE(double, 2) CASE(double, 3) CASE(double, 4)
    return 1;
}
