#include "experiments/space_json.h"

#include <cmath>

namespace espalier {
namespace {

using nlohmann::ordered_json;

ordered_json MemberToJson(const Member& member, bool indices) {
  ordered_json json = {{"parameter", member.parameter}, {"axis", member.axis},
                       {"role", RoleName(member.role)}, {"first_unit", member.first_unit},
                       {"units", member.units()},       {"per_unit", member.per_unit},
                       {"blocks", member.blocks}};
  if (indices) json["indices"] = member.indices;
  return json;
}

/// Costs at whole counts are whole numbers.
int64_t Whole(double cost) { return std::llround(cost); }

}  // namespace

std::vector<Cost> GovernedCosts(const CostModel& cost) {
  const Cost full = cost.Full();
  std::vector<double> kept(cost.units().begin(), cost.units().end());
  std::vector<Cost> governed;
  for (size_t group = 0; group < kept.size(); ++group) {
    kept[group] = static_cast<double>(cost.least()[group]);
    const Cost without = cost.Evaluate(kept);
    kept[group] = static_cast<double>(cost.units()[group]);
    governed.push_back({full.macs - without.macs, full.params - without.params,
                        full.activation_bytes - without.activation_bytes});
  }
  return governed;
}

Cost LeastCost(const CostModel& cost, Convention convention) {
  const std::vector<double> least(cost.least().begin(), cost.least().end());
  return cost.Evaluate(least, convention);
}

const char* RoleName(MemberRole role) {
  switch (role) {
    case MemberRole::kProducer:
      return "producer";
    case MemberRole::kConsumer:
      return "consumer";
    case MemberRole::kChannel:
      return "channel";
  }
  return "";
}

ordered_json PinsToJson(const Space& space) {
  ordered_json json = ordered_json::array();
  for (const auto& pin : space.pins())
    json.push_back({{"parameter", pin.parameter},
                    {"axis", pin.axis},
                    {"count", pin.count},
                    {"reason", pin.reason}});
  return json;
}

ordered_json SpaceToJson(const Space& space, const CostModel& cost, bool indices) {
  ordered_json json = {{"network", space.network().name},
                       {"units", space.total_units()},
                       {"groups", ordered_json::array()}};
  const std::vector<Cost> governed = GovernedCosts(cost);
  for (size_t i = 0; i < governed.size(); ++i) {
    const Group& group = space.groups()[i];
    ordered_json members = ordered_json::array();
    for (const auto& member : group.members) members.push_back(MemberToJson(member, indices));
    json["groups"].push_back({{"name", group.name},
                              {"kind", group.kind},
                              {"units", group.units},
                              {"blocks", group.blocks},
                              {"exact", group.exact},
                              {"governs",
                               {{"macs", Whole(governed[i].macs)},
                                {"params", Whole(governed[i].params)},
                                {"activation_bytes", Whole(governed[i].activation_bytes)}}},
                              {"members", members}});
  }
  json["pinned"] = PinsToJson(space);
  for (const auto convention : {Convention::kCanonical, Convention::kThop, Convention::kAutobot}) {
    const Cost full = cost.Full(convention), least = LeastCost(cost, convention);
    json["cost"][ConventionName(convention)] = {{"macs", Whole(full.macs)},
                                                {"params", Whole(full.params)},
                                                {"least_macs", Whole(least.macs)},
                                                {"least_params", Whole(least.params)}};
  }
  json["cost"]["activation_bytes"] = Whole(cost.Full().activation_bytes);
  json["uncounted"] = cost.uncounted();
  return json;
}

}  // namespace espalier
