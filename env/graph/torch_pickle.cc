#include "env/graph/torch_pickle.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>

#include "env/base/error.h"
#include "env/graph/checked_view.h"
#include "env/graph/storage_types.h"

namespace espalier {
namespace {

using Kind = PickleValue::Kind;

constexpr size_t kMostValues = 1 << 20;  // values a pickle may make; memory is bounded by them
constexpr int kDeepest = 100;

template <typename... Parts>
[[noreturn]] void Fail(const Parts&... parts) {
  throw Error(ErrorKind::kModel, Str("the pickle is not understood: ", parts...));
}

std::optional<at::ScalarType> StorageType(std::string_view name) {
  constexpr std::string_view kModule = "torch.";
  for (const auto& [known, type] : kStorageTypes)
    if (name.starts_with(kModule) && name.substr(kModule.size()) == known) return type;
  return std::nullopt;
}

/// A stack machine for the opcodes torch.save writes.
class Unpickler {
 public:
  /// Storages are the records folder/KEY; with `sizes_only` they are not read.
  Unpickler(ZipFile& archive, std::string program, std::string folder, bool sizes_only)
      : archive_(archive),
        program_(std::move(program)),
        folder_(std::move(folder)),
        sizes_only_(sizes_only) {}

  PickleValue Run() {
    for (;;) {
      const auto opcode = static_cast<unsigned char>(Bytes(1).front());
      if (opcode == '.') return Pop();
      Step(opcode);
      if (stack_.size() > kMostValues) Fail("it makes too many values");
    }
  }

 private:
  std::string_view Bytes(size_t count) {
    if (count > program_.size() - at_) Fail("it ends at byte ", program_.size());
    at_ += count;
    return std::string_view(program_).substr(at_ - count, count);
  }
  template <typename T>
  T Number() {
    T number;
    std::memcpy(&number, Bytes(sizeof(T)).data(), sizeof(T));
    return number;
  }
  std::string Line() {
    const size_t end = program_.find('\n', at_);
    if (end == std::string::npos) Fail("a line has no end at byte ", at_);
    std::string line(Bytes(end - at_));
    Bytes(1);
    return line;
  }

  PickleValue Pop() {
    if (stack_.empty() || (!marks_.empty() && stack_.size() <= marks_.back()))
      Fail("its stack is empty at byte ", at_);
    PickleValue value = std::move(stack_.back());
    stack_.pop_back();
    return value;
  }
  PickleValue& Top() {
    if (stack_.empty()) Fail("its stack is empty at byte ", at_);
    return stack_.back();
  }
  std::vector<PickleValue> PopMark() {
    if (marks_.empty()) Fail("a mark is missing at byte ", at_);
    const auto begin = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    std::vector<PickleValue> items(std::make_move_iterator(begin),
                                   std::make_move_iterator(stack_.end()));
    stack_.erase(begin, stack_.end());
    marks_.pop_back();
    return items;
  }
  void Push(PickleValue value) {
    stack_.push_back(std::move(value));
    memo_of_top_.erase(stack_.size());
  }
  void PushText(size_t length) { Push({.kind = Kind::kText, .text = std::string(Bytes(length))}); }
  void PushInt(int64_t number) { Push({.kind = Kind::kInt, .number = number}); }
  void PushTuple(std::vector<PickleValue> items) {
    PickleValue tuple{.kind = Kind::kTuple, .items = std::move(items)};
    for (const PickleValue& item : tuple.items) Nest(tuple, item);
    Push(std::move(tuple));
  }
  std::vector<PickleValue> PopSome(int count) {
    std::vector<PickleValue> items;
    for (int i = 0; i < count; ++i) items.insert(items.begin(), Pop());
    return items;
  }
  void Append(std::vector<PickleValue> items) {
    PickleValue& target = Top();
    // Values are copied into the memo, so a container that grows later must be kept up to date.
    for (PickleValue& item : items) {
      Nest(target, item);
      target.items.push_back(std::move(item));
    }
    if (const auto known = memo_of_top_.find(stack_.size()); known != memo_of_top_.end()) {
      Charge(target);
      memo_[known->second] = target;
    }
  }
  /// Depth is kept, not counted: destroying and copying values is recursive.
  static void Nest(PickleValue& outer, const PickleValue& item) {
    outer.depth = std::max(outer.depth, item.depth + 1);
    if (outer.depth > kDeepest) Fail("it is nested too deep");
  }
  void Memoize(int64_t index) {
    // Writers number what they store; a reader may keep a plain list of it.
    if (index > static_cast<int64_t>(memo_.size()))
      Fail("it stores value ", index, " after ", memo_.size(), " at byte ", at_);
    Charge(Top());
    memo_[index] = Top();
    memo_of_top_[stack_.size()] = index;
  }
  void Recall(int64_t index) {
    const auto known = memo_.find(index);
    if (known == memo_.end()) Fail("it recalls ", index, ", which it never stored");
    Charge(known->second);
    Push(known->second);
  }
  /// Copies are paid for before they are made: nested references would double without end.
  void Charge(const PickleValue& copied) {
    values_ += SizeOf(copied);
    if (values_ > kMostValues) Fail("it makes too many values");
  }
  static size_t SizeOf(const PickleValue& value) {
    size_t size = 1 + value.text.size() / 16;
    for (const PickleValue& item : value.items) size += SizeOf(item);
    return size;
  }

  void Step(unsigned char opcode) {
    if (Simple(opcode) || Container(opcode)) return;
    switch (opcode) {
      case 'q':
        return Memoize(Number<uint8_t>());
      case 'r':
        return Memoize(Number<uint32_t>());
      case 0x94:
        return Memoize(static_cast<int64_t>(memo_.size()));
      case 'h':
        return Recall(Number<uint8_t>());
      case 'j':
        return Recall(Number<uint32_t>());
      case 'c': {
        std::string name = Line();
        return Push({.kind = Kind::kOpaque, .text = name + "." + Line()});
      }
      case 0x93: {
        const PickleValue name = Pop(), module = Pop();
        return Push({.kind = Kind::kOpaque, .text = module.text + "." + name.text});
      }
      case 'Q':
        return Push(StorageOf(Pop()));
      case 'R': {
        PickleValue arguments = Pop();
        const PickleValue callee = Pop();
        return Push(Call(callee.text, arguments));
      }
      case 0x81: {  // NEWOBJ
        Pop();
        const std::string type = Pop().text;
        return Push({.kind = Kind::kOpaque, .text = type});
      }
      case 'b':  // attributes of an object: nothing we keep
      case '0':
        Pop();
        return;
      default:
        Fail("opcode ", static_cast<int>(opcode), " at byte ", at_ - 1);
    }
  }

  bool Simple(unsigned char opcode) {
    switch (opcode) {
      case 0x80:  // PROTO
      case 0x95:  // FRAME
        Bytes(opcode == 0x80 ? 1 : 8);
        return true;
      case 'N':
        Push({});
        return true;
      case 0x88:
      case 0x89:
        Push({.kind = Kind::kBool, .number = opcode == 0x88});
        return true;
      case 'K':
        PushInt(Number<uint8_t>());
        return true;
      case 'M':
        PushInt(Number<uint16_t>());
        return true;
      case 'J':
        PushInt(Number<int32_t>());
        return true;
      case 0x8a:
        PushInt(LongOf(Bytes(Number<uint8_t>())));
        return true;
      case 'G': {
        const std::string_view big = Bytes(8);
        char little[8];
        for (size_t i = 0; i < 8; ++i) little[i] = big[7 - i];
        PickleValue value{.kind = Kind::kFloat};
        std::memcpy(&value.real, little, 8);
        Push(std::move(value));
        return true;
      }
      case 'X':
        PushText(Number<uint32_t>());
        return true;
      case 0x8c:
      case 'U':
        PushText(Number<uint8_t>());
        return true;
      default:
        return false;
    }
  }

  bool Container(unsigned char opcode) {
    switch (opcode) {
      case '(':
        marks_.push_back(stack_.size());
        return true;
      case ')':
      case ']':
      case '}':
        Push({.kind = opcode == ')' ? Kind::kTuple : opcode == ']' ? Kind::kList : Kind::kDict});
        return true;
      case 0x85:
      case 0x86:
      case 0x87:
        PushTuple(PopSome(opcode - 0x84));
        return true;
      case 't':
        PushTuple(PopMark());
        return true;
      case 'a':
      case 's':
        Append(PopSome(opcode == 'a' ? 1 : 2));
        return true;
      case 'e':
      case 'u':
        Append(PopMark());
        return true;
      default:
        return false;
    }
  }

  static int64_t LongOf(std::string_view bytes) {
    if (bytes.size() > 8) Fail("an integer has ", bytes.size(), " bytes");
    uint64_t number = 0;
    for (size_t i = 0; i < bytes.size(); ++i)
      number |= static_cast<uint64_t>(static_cast<unsigned char>(bytes[i])) << (8 * i);
    const size_t bits = 8 * bytes.size();
    if (bits > 0 && bits < 64 && (number >> (bits - 1)) != 0) number |= ~uint64_t{0} << bits;
    return static_cast<int64_t>(number);
  }

  /// ("storage", class, key, device, count) -> a flat tensor of all its elements.
  PickleValue StorageOf(const PickleValue& id) {
    const auto& items = id.items;
    if (id.kind != Kind::kTuple || items.size() < 5 || items[0].text != "storage")
      Fail("a persistent id is no storage");
    const auto dtype = StorageType(items[1].text);
    if (!dtype) Fail("storages of class ", items[1].text, " are not supported");
    const std::string& key = items[2].text;
    const std::string record = folder_ + "/" + key;
    const auto size = static_cast<int64_t>(archive_.Size(record));
    const auto element = static_cast<int64_t>(c10::elementSize(*dtype));
    if (size % element != 0 || items[4].kind != Kind::kInt || items[4].number != size / element)
      Fail("storage '", key, "' has ", size, " bytes, not ", items[4].number, " elements of ",
           element);
    const at::TensorOptions options(*dtype);
    PickleValue value{.kind = Kind::kOpaque, .text = "storage"};
    if (sizes_only_) {
      value.tensor = at::empty({size / element}, options.device(at::kMeta));
      return value;
    }
    Tensor& bytes = storages_[key];
    if (!bytes.defined()) {
      bytes = at::empty({size}, at::kByte);
      archive_.Read(record, bytes.mutable_data_ptr());
    }
    if (*dtype == at::kBool) CheckBooleans(bytes);
    value.tensor = at::empty({0}, options).set_(bytes.storage(), 0, {size / element}, {1});
    return value;
  }

  static std::vector<int64_t> IntsOf(const PickleValue& tuple) {
    std::vector<int64_t> numbers;
    for (const PickleValue& item : tuple.items) {
      if (item.kind != Kind::kInt || item.number < 0) Fail("a size is no whole number >= 0");
      numbers.push_back(item.number);
    }
    return numbers;
  }

  static PickleValue Call(const std::string& callee, const PickleValue& arguments) {
    const auto& items = arguments.items;
    if (callee == "torch._utils._rebuild_tensor_v2" && items.size() >= 4)
      return RebuiltTensor(items);
    if (callee == "torch._utils._rebuild_parameter" && !items.empty() &&
        items[0].kind == Kind::kTensor)
      return items[0];
    if (callee.starts_with("torch._utils._rebuild")) Fail("tensors made by ", callee);
    // (function, class, arguments, attributes): a tensor that carries Python attributes.
    if (callee == "torch._tensor._rebuild_from_type_v2" && items.size() >= 3) {
      const std::string& type = items[1].text;
      if (type == "torch.Tensor" || type == "torch.nn.parameter.Parameter")
        return Call(items[0].text, items[2]);
      return {.kind = Kind::kOpaque, .text = type};
    }
    if (callee == "collections.OrderedDict") return {.kind = Kind::kDict};
    if (callee == "torch.Size" && items.size() == 1) return items[0];
    return {.kind = Kind::kOpaque, .text = callee};
  }

  static PickleValue RebuiltTensor(const std::vector<PickleValue>& items) {
    const Tensor& flat = items[0].tensor;
    if (!flat.defined() || items[0].text != "storage" || items[1].kind != Kind::kInt)
      Fail("a tensor without storage");
    const int64_t offset = items[1].number;
    const auto sizes = IntsOf(items[2]), strides = IntsOf(items[3]);
    if (sizes.size() > 64) Fail("a tensor has ", sizes.size(), " axes");
    try {
      CheckInside(sizes, strides, offset, flat.numel());
    } catch (const Error& error) {
      Fail("a tensor: ", error.message());
    }
    // Expanded samples (stride 0) are legal; the views are cheap, copies are up to the caller.
    PickleValue value{.kind = Kind::kTensor};
    value.tensor = flat.as_strided(sizes, strides, std::min(offset, flat.numel()));
    return value;
  }

  ZipFile& archive_;
  const std::string program_, folder_;
  const bool sizes_only_;
  size_t at_ = 0;
  std::vector<PickleValue> stack_;
  std::vector<size_t> marks_;
  std::map<int64_t, PickleValue> memo_;
  std::map<size_t, int64_t> memo_of_top_;  // stack height -> memo index of the value there
  std::map<std::string, Tensor> storages_;
  size_t values_ = 0;
};

}  // namespace

void PickleValue::CollectTensors(std::vector<Tensor>& tensors) const {
  if (kind == Kind::kTensor) tensors.push_back(tensor);
  const bool is_dict = kind == Kind::kDict;
  for (size_t i = is_dict ? 1 : 0; i < items.size(); i += is_dict ? 2 : 1)
    items[i].CollectTensors(tensors);
}

PickleValue ReadTorchSave(const Tensor& bytes) {
  try {
    ZipFile archive("pickle", {static_cast<const char*>(bytes.const_data_ptr()),
                               static_cast<size_t>(bytes.numel())});
    std::string program(archive.Size("data.pkl"), '\0');
    archive.Read("data.pkl", program.data());
    return Unpickler(archive, std::move(program), "data", false).Run();
  } catch (const c10::Error& error) {
    Fail(error.what_without_backtrace());
  }
}

void CheckTorchPickle(ZipFile& archive, std::string program, const std::string& folder) {
  try {
    Unpickler(archive, std::move(program), folder, true).Run();
  } catch (const c10::Error& error) {
    Fail(error.what_without_backtrace());
  }
}

}  // namespace espalier
