#pragma once

namespace espalier {

/// The style sheet of report.html: light and dark, wide and narrow, screen and paper.
extern const char* const kReportStyle;

/// The script of report.html: values under the pointer. The page is complete without it.
extern const char* const kReportScript;

/// The drawing before the title: a tree trained flat on a trellis, cut branches pale.
extern const char* const kReportMark;

}  // namespace espalier
