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
int64_t Pow(int64_t a, int64_t b) {
  if (b < 0) throw Error(ErrorKind::kModel, "a size has a negative exponent");
  int64_t result = 1;
  for (int64_t i = 0; i < b && result != 0; ++i) {
    if (a == 1 || a == -1) return a == 1 || b % 2 == 0 ? 1 : -1;
    result = Mul(result, a);
  }
  return result;
}
int64_t Max(int64_t a, int64_t b) { return a > b ? a : b; }
int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t Neg(int64_t a) { return Sub(0, a); }

TORCH_LIBRARY(espalier_sym, library) {
  library.def("add(int a, int b) -> int", Add);
  library.def("sub(int a, int b) -> int", Sub);
  library.def("mul(int a, int b) -> int", Mul);
  library.def("floordiv(int a, int b) -> int", FloorDiv);
  library.def("mod(int a, int b) -> int", Mod);
  library.def("neg(int a) -> int", Neg);
  library.def("pow(int a, int b) -> int", Pow);
  library.def("sym_max(int a, int b) -> int", Max);
  library.def("sym_min(int a, int b) -> int", Min);
}

}  // namespace
}  // namespace espalier
