set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
# Not CMAKE_POSITION_INDEPENDENT_CODE: it compiles executables with -fPIE, and then they cannot share
# the libraries' precompiled header.
add_compile_options(-fPIC)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR})
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()
# No -DNDEBUG: ESPALIER_CHECK is always on anyway. With sanitizers a third less to compile counts more.
set(CMAKE_CXX_FLAGS_RELEASE "-O2")
if(ESPALIER_SANITIZE)
  set(CMAKE_CXX_FLAGS_RELEASE "-O1")
endif()

find_program(CCACHE ccache)
if(CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER
      ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
      ${CCACHE})
endif()
find_program(MOLD mold)
if(MOLD)
  add_link_options(-fuse-ld=mold)
endif()
if(ESPALIER_SANITIZE)
  # vptr checks want the type information of LibTorch's classes, much of which is hidden.
  add_compile_options(-fsanitize=${ESPALIER_SANITIZE} -fno-sanitize=vptr -fno-omit-frame-pointer
                      -fno-sanitize-recover=all -g1)
  add_link_options(-fsanitize=${ESPALIER_SANITIZE})
endif()

add_library(espalier_warnings INTERFACE)
target_compile_options(espalier_warnings INTERFACE -Wall -Wextra)
if(NOT ESPALIER_SANITIZE)  # the added checks make GCC suspect values that are never used unset
  target_compile_options(espalier_warnings INTERFACE -Werror)
endif()
