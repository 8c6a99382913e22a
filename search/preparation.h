#pragma once

#include <functional>
#include <string>

#include "search/search_loop.h"

namespace espalier {

/// What is done to every cut network before a search evaluates it: its layers fitted to the uncut
/// network in closed form (Compensate), a short fine-tune, then batch norm statistics anew, as far
/// as the config asks for them; empty when it does not. All candidates see the same batches.
///
/// amount   fraction, in (0, 1], of the batches that `config.fidelity` is about; all of the others.
/// Errors   kConfig when the fidelity is of something the config does not ask for. Of the function:
///          kTrials when the fine-tune diverges.
/// Random   data order, augmentation and dropout from the context's seed.
/// Threads  the function may be called by several; networks that draw (dropout) take turns.
std::function<void(Network&, const Selection&)> Preparation(const std::string& name,
                                                            const SearchLoopConfig& config,
                                                            const Environment& environment,
                                                            const SearchContext& context,
                                                            double amount);

/// In words, which network a candidate's figure is of: "right after the cut", or what was done to
/// it since.
std::string MeasuredWhen(const SearchLoopConfig& config);

}  // namespace espalier
