#include <ATen/ATen.h>

#include <numeric>

#include "env/space/label_rules.h"

// Complex numbers, whose two parts stay together, and Fourier transforms.

namespace espalier {
namespace {

/// view_as_complex: [.., 2] -> [..]; view_as_real: [..] -> [.., 2].
void AsComplex(const Call& c) {
  const ValueId input = c.op.ValueArg("self");
  const Tensor& ids = Data(c, input);
  const int64_t last = c.rank(input) - 1;
  if (ids.defined()) c.t.Set(c.out(), c.t.Canonical(Together(c, ids, last).squeeze(last)));
}

void AsReal(const Call& c) {
  const Tensor& ids = Data(c, c.op.ValueArg("self"));
  if (ids.defined()) c.t.Set(c.out(), ids.unsqueeze(-1));
}

/// Labels pass, but not along the axes that are transformed: `dim`, an axis, a list, or none for
/// all.
void Transform(const Call& c) {
  const ValueId input = c.op.ValueArg("self");
  if (!c.ids(input).defined()) return;
  const c10::IValue* dim = c.Constant("dim");
  if (dim == nullptr) return Opaque(c);
  std::vector<int64_t> axes(static_cast<size_t>(c.rank(input)));
  std::iota(axes.begin(), axes.end(), 0);
  if (dim->isInt()) axes = {dim->toInt()};
  if (dim->isIntList()) axes = dim->toIntVector();
  for (const int64_t axis : axes)
    if (c.ids(input).size(axis) > 1)
      return c.t.PinAll(c.ids(input), Str(c.where(), ": transforms a prunable axis"));
  c.t.Set(c.out(), c.ids(input));
}

}  // namespace

void AddSpectralRules(LabelRules& rules) {
  AddRules(rules, AsComplex, "view_as_complex");
  AddRules(rules, AsReal, "view_as_real");
  AddRules(rules, CopyLabels,
           "real imag angle conj _conj conj_physical _conj_physical resolve_conj resolve_neg");
  AddRules(rules, Transform,
           "fft_fft fft_ifft fft_rfft fft_irfft fft_hfft fft_ihfft fft_fft2 fft_ifft2 fft_rfft2 "
           "fft_irfft2 fft_hfft2 fft_ihfft2 fft_fftn fft_ifftn fft_rfftn fft_irfftn fft_hfftn "
           "fft_ihfftn fft_fftshift fft_ifftshift");
}

}  // namespace espalier
