#include <torch/library.h>

#include "env/base/error.h"

/// Arithmetic on sizes. torch.export records it as Python's operator functions, which ATen has no
/// operators for; these make it part of the graph like any other call.
namespace espalier {
namespace {

[[noreturn]] void ThrowOverflow() {
  throw Error(ErrorKind::kModel, "arithmetic on sizes overflows");
}
int64_t Add(int64_t a, int64_t b) {
  int64_t result = 0;
  if (__builtin_add_overflow(a, b, &result)) ThrowOverflow();
  return result;
}
int64_t Sub(int64_t a, int64_t b) {
  int64_t result = 0;
  if (__builtin_sub_overflow(a, b, &result)) ThrowOverflow();
  return result;
}
int64_t Mul(int64_t a, int64_t b) {
  int64_t result = 0;
  if (__builtin_mul_overflow(a, b, &result)) ThrowOverflow();
  return result;
}
int64_t FloorDiv(int64_t a, int64_t b) {  // rounds down, as Python's // does
  if (b == 0) throw Error(ErrorKind::kModel, "a size is divided by zero");
  if (b == -1) return Sub(0, a);
  return a / b - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0);
}
int64_t Mod(int64_t a, int64_t b) { return Sub(a, Mul(FloorDiv(a, b), b)); }
int64_t Neg(int64_t a) { return Sub(0, a); }

TORCH_LIBRARY(espalier_sym, library) {
  library.def("add(int a, int b) -> int", Add);
  library.def("sub(int a, int b) -> int", Sub);
  library.def("mul(int a, int b) -> int", Mul);
  library.def("floordiv(int a, int b) -> int", FloorDiv);
  library.def("mod(int a, int b) -> int", Mod);
  library.def("neg(int a) -> int", Neg);
}

}  // namespace
}  // namespace espalier
