#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cstdlib>

/// Tests work on tiny tensors: one thread is fastest, gives the same sums on every machine and lets
/// ctest run executables side by side. Programs that tests start inherit it.
int main(int argc, char** argv) {
  setenv("OMP_NUM_THREADS", "1", /*overwrite=*/0);
  testing::InitGoogleTest(&argc, argv);
  at::set_num_threads(1);
  return RUN_ALL_TESTS();
}
