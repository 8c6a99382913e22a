# LibTorch as the target espalier_torch: -DTorch_DIR=..., else the active python's `torch`, else the
# one in .venv (scripts/setup makes it). ESPALIER_PYTHON is a python that has torch: tests open
# written files with it.
option(ESPALIER_TORCH_MANUAL "Link LibTorch's files directly, without its CMake package" OFF)

if(NOT ESPALIER_PYTHON OR NOT Torch_DIR)
  foreach(python IN ITEMS python3 ${CMAKE_CURRENT_LIST_DIR}/../.venv/bin/python)
    execute_process(
      COMMAND ${python} -c "import sys, torch; print(sys.executable, torch.utils.cmake_prefix_path, sep=';')"
      OUTPUT_VARIABLE found OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE missing)
    if(NOT missing AND found)
      list(GET found 0 found_python)
      list(GET found 1 found_prefix)
      set(ESPALIER_PYTHON ${found_python} CACHE FILEPATH "A python that has torch: used by tests only")
      if(NOT Torch_DIR)
        set(Torch_DIR ${found_prefix}/Torch CACHE PATH "LibTorch's CMake package" FORCE)
      endif()
      break()
    endif()
  endforeach()
endif()
if(NOT EXISTS "${Torch_DIR}/TorchConfig.cmake")
  message(FATAL_ERROR "LibTorch not found. Run scripts/setup, or pass -DTorch_DIR=<torch>/share/cmake/Torch.")
endif()
get_filename_component(espalier_torch_root ${Torch_DIR}/../../.. ABSOLUTE)

# LibTorch's package wants a whole CUDA toolkit when it was built for CUDA. We compile no CUDA code
# ourselves, so its libraries are then linked directly.
set(espalier_torch_cuda FALSE)
if(EXISTS ${espalier_torch_root}/lib/libtorch_cuda.so)
  set(espalier_torch_cuda TRUE)
  set(ESPALIER_TORCH_MANUAL ON)
endif()

add_library(espalier_torch INTERFACE)
if(ESPALIER_TORCH_MANUAL)
  set(libraries torch_cpu torch c10)
  set(library_paths)
  if(espalier_torch_cuda)
    list(APPEND libraries torch_cuda c10_cuda)
    # The pip packages of CUDA lie beside torch: nvidia/cu13, or nvidia/cuda_runtime before.
    file(GLOB cuda_places ${espalier_torch_root}/../nvidia/cu* /usr/local/cuda)
    # cuda_runtime.h includes crt/, which in pip is a package of its own (nvidia-cuda-crt).
    find_path(ESPALIER_CUDA_INCLUDE crt/host_config.h PATHS ${cuda_places} PATH_SUFFIXES include)
    find_library(ESPALIER_CUDART NAMES cudart libcudart.so.13 libcudart.so.12 PATHS ${cuda_places}
                 PATH_SUFFIXES lib lib64)
    if(ESPALIER_CUDA_INCLUDE AND ESPALIER_CUDART)
      target_include_directories(espalier_torch SYSTEM INTERFACE ${ESPALIER_CUDA_INCLUDE})
      target_compile_definitions(espalier_torch INTERFACE ESPALIER_HAS_CUDA=1)
      list(APPEND library_paths ${ESPALIER_CUDART})
    else()
      message(WARNING "LibTorch has CUDA, but crt/host_config.h or libcudart was not found: "
                      "CUDA graphs are left out. pip: nvidia-cuda-runtime, nvidia-cuda-crt.")
    endif()
  endif()
  foreach(library IN LISTS libraries)
    list(APPEND library_paths ${espalier_torch_root}/lib/lib${library}.so)
    # Operators register themselves: the linker must not drop a library nobody calls by name.
    target_link_options(espalier_torch INTERFACE
      "LINKER:--no-as-needed,${espalier_torch_root}/lib/lib${library}.so,--as-needed")
  endforeach()
  target_include_directories(espalier_torch SYSTEM INTERFACE
    ${espalier_torch_root}/include ${espalier_torch_root}/include/torch/csrc/api/include)
  target_link_libraries(espalier_torch INTERFACE ${library_paths})
  target_link_options(espalier_torch INTERFACE LINKER:--allow-shlib-undefined)
  message(STATUS "LibTorch from ${espalier_torch_root}, linked directly")
else()
  find_package(Torch REQUIRED)
  target_include_directories(espalier_torch SYSTEM INTERFACE ${TORCH_INCLUDE_DIRS})
  target_link_libraries(espalier_torch INTERFACE ${TORCH_LIBRARIES})
  message(STATUS "LibTorch ${Torch_VERSION} from ${espalier_torch_root}")
endif()
