#include "experiments/progress_line.h"

#include <memory>

#include "env/base/log.h"

namespace espalier {

std::function<void(int64_t, int64_t, std::string_view)> ProgressLine(const std::string& task) {
  struct Part {
    int64_t total = -1;
    std::unique_ptr<Progress> line;
  };
  return [task, part = std::make_shared<Part>()](int64_t done, int64_t total,
                                                 std::string_view detail) {
    if (total != part->total) {
      part->line.reset();  // ends the line of the part before
      part->line = std::make_unique<Progress>(task, total);
      part->total = total;
    }
    part->line->Update(done, detail);
  };
}

}  // namespace espalier
