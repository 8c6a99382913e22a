# One precompiled header for everything that sees LibTorch.
if(ESPALIER_PCH)
  # file(CONFIGURE) keeps the time stamp of an unchanged file: file(WRITE) would rebuild the world.
  file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/pch_owner.cc CONTENT "// Owns the precompiled header.\n")
  add_library(espalier_pch OBJECT ${PROJECT_BINARY_DIR}/pch_owner.cc)
  target_link_libraries(espalier_pch PRIVATE espalier_torch espalier_warnings)
  target_precompile_headers(espalier_pch PRIVATE
    <ATen/ATen.h> <ATen/core/dispatch/Dispatcher.h> <algorithm> <filesystem> <functional> <map>
    <memory> <optional> <span> <sstream> <string> <vector>)
endif()
function(espalier_use_pch target)
  if(ESPALIER_PCH)
    target_precompile_headers(${target} REUSE_FROM espalier_pch)
  endif()
endfunction()

# espalier_room(NAME DEPENDS lower rooms...): the target of one top-level folder, espalier::NAME.
# OBJECT libraries, because the linker drops self-registering objects from static ones; linking a
# room links the rooms below it.
function(espalier_room name)
  cmake_parse_arguments(ROOM "" "" "DEPENDS" ${ARGN})
  # CMake wants a source at once; the folders add theirs with target_sources().
  file(CONFIGURE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/room.cc CONTENT "// The room ${name}.\n")
  add_library(espalier_${name}_objects OBJECT ${CMAKE_CURRENT_BINARY_DIR}/room.cc)
  target_include_directories(espalier_${name}_objects PUBLIC
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}> $<INSTALL_INTERFACE:include>)
  target_link_libraries(espalier_${name}_objects PUBLIC espalier_torch PRIVATE espalier_warnings)
  espalier_use_pch(espalier_${name}_objects)
  add_library(espalier_${name} INTERFACE)
  target_link_libraries(espalier_${name} INTERFACE
    espalier_${name}_objects $<TARGET_OBJECTS:espalier_${name}_objects>)
  foreach(lower IN LISTS ROOM_DEPENDS)
    target_link_libraries(espalier_${name}_objects PUBLIC espalier_${lower}_objects)
    target_link_libraries(espalier_${name} INTERFACE espalier_${lower})
  endforeach()
  add_library(espalier::${name} ALIAS espalier_${name})
endfunction()

# espalier_tests(NAME ROOM sources...): one executable, one CTest entry per suite kind, so that
# `ctest -L unit` works. Suites end in Unit, Property, Conformance, Golden or E2e.
function(espalier_tests name room)
  add_executable(${name} ${ARGN})
  target_link_libraries(${name} PRIVATE espalier::${room} espalier_test_support espalier_warnings)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
  espalier_use_pch(${name})
  set(found_text)
  foreach(source IN LISTS ARGN)
    file(STRINGS ${source} lines REGEX "^TEST|^INSTANTIATE_TEST")
    list(APPEND found_text ${lines})
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${source})
  endforeach()
  foreach(kind IN ITEMS Unit Property Conformance Golden E2e)
    string(TOLOWER ${kind} label)
    if("${found_text}" MATCHES "${kind}")
      add_test(NAME ${name}.${label} COMMAND ${name} --gtest_filter=*${kind}.* --gtest_brief=1
               WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
      set_tests_properties(${name}.${label} PROPERTIES LABELS ${label} TIMEOUT 1200
        ENVIRONMENT "ESPALIER_PYTHON=${ESPALIER_PYTHON};ESPALIER_BINARY=${PROJECT_BINARY_DIR}/espalier")
    endif()
  endforeach()
endfunction()
