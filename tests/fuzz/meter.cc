#include "tests/fuzz/meter.h"

#include <malloc.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>

namespace espalier::fuzz {
namespace {

// Plain thread locals: what runs inside malloc must not allocate.
thread_local bool counting = false;
thread_local int64_t alive = 0, peak = 0;
thread_local size_t largest = 0;

void Took(size_t requested, size_t usable) {
  if (!counting) return;
  largest = std::max(largest, requested);
  alive += static_cast<int64_t>(usable);
  peak = std::max(peak, alive);
}

void Gave(size_t usable) {
  if (counting) alive -= static_cast<int64_t>(usable);
}

}  // namespace

#ifdef __SANITIZE_ADDRESS__

// The sanitizer owns malloc; it calls hooks.
extern "C" int __sanitizer_install_malloc_and_free_hooks(void (*malloc_hook)(const volatile void*,
                                                                             size_t),
                                                         void (*free_hook)(const volatile void*));
extern "C" size_t __sanitizer_get_allocated_size(const volatile void*);

namespace {
[[maybe_unused]] const int installed = __sanitizer_install_malloc_and_free_hooks(
    [](const volatile void*, size_t size) { Took(size, size); },
    [](const volatile void* pointer) {
      if (counting && pointer != nullptr) Gave(__sanitizer_get_allocated_size(pointer));
    });
}  // namespace

#else

namespace {
void* Counted(void* pointer, size_t requested) {
  // A request that fails counts in full: it was asked for.
  if (counting) Took(requested, pointer ? malloc_usable_size(pointer) : requested);
  return pointer;
}
}  // namespace

// glibc's own functions under their inner names; ours stand before them in every library.
extern "C" {
void* __libc_malloc(size_t size);
void* __libc_calloc(size_t count, size_t size);
void* __libc_realloc(void* pointer, size_t size);
void* __libc_memalign(size_t alignment, size_t size);
void __libc_free(void* pointer);

void* malloc(size_t size) noexcept { return Counted(__libc_malloc(size), size); }
void* calloc(size_t count, size_t size) noexcept {
  return Counted(__libc_calloc(count, size), count * size);
}
void* realloc(void* pointer, size_t size) noexcept {
  if (counting && pointer != nullptr) Gave(malloc_usable_size(pointer));
  return Counted(__libc_realloc(pointer, size), size);
}
void* memalign(size_t alignment, size_t size) noexcept {
  return Counted(__libc_memalign(alignment, size), size);
}
void* aligned_alloc(size_t alignment, size_t size) noexcept {
  return Counted(__libc_memalign(alignment, size), size);
}
int posix_memalign(void** result, size_t alignment, size_t size) noexcept {
  *result = Counted(__libc_memalign(alignment, size), size);
  return *result ? 0 : ENOMEM;
}
void free(void* pointer) noexcept {
  if (counting && pointer != nullptr) Gave(malloc_usable_size(pointer));
  __libc_free(pointer);
}
}

#endif

void Meter::Start() {
  alive = peak = 0;
  largest = 0;
  counting = true;
}

Meter::Usage Meter::Stop() {
  counting = false;
  return {static_cast<size_t>(std::max<int64_t>(peak, 0)), largest};
}

}  // namespace espalier::fuzz
