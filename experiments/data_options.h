#pragma once

#include "env/data/splits.h"
#include "env/space/space.h"
#include "experiments/command_line.h"
#include "experiments/model_source.h"

namespace espalier {

/// --data, --root, --mean, --std, --validation of commands that read no config.
void AddDataOptions(OptionList& add);
/// Errors: kUsage for values that are no numbers; the data set's own checks come with Splits::Load.
DataConfig ReadDataOptions(const Arguments& arguments);

/// --shortcut, --classes, --input-shape and --input of commands that take MODEL.
void AddModelOptions(OptionList& add);
/// A positional argument (the first unless told) as a model. Errors: kUsage.
ModelConfig ReadModelOptions(const Arguments& arguments, size_t position = 0);

/// --decouple-residuals, --attention and --exclude.
void AddSpaceOptions(OptionList& add);
SpaceOptions ReadSpaceOptions(const Arguments& arguments);

/// SHA-256 over images and labels of all three splits.
std::string DataHash(const Splits& splits);

}  // namespace espalier
