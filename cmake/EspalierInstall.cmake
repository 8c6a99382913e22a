# `cmake --install build --prefix P`: headers, the rooms' object files, the executable, and what
# find_package(espalier) reads. Object files, because criteria and strategies register themselves and
# the linker drops such objects from an archive.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(rooms env criteria controllers agents search experiments)
foreach(room IN LISTS rooms)
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/${room} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/espalier
          FILES_MATCHING PATTERN "*.h")
  install(TARGETS espalier_${room}_objects
          OBJECTS DESTINATION ${CMAKE_INSTALL_LIBDIR}/espalier/${room})
endforeach()
install(TARGETS espalier_log OBJECTS DESTINATION ${CMAKE_INSTALL_LIBDIR}/espalier/env)
if(TARGET espalier)
  set_target_properties(espalier PROPERTIES INSTALL_RPATH_USE_LINK_PATH TRUE)
  install(TARGETS espalier RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()

set(package ${CMAKE_INSTALL_LIBDIR}/cmake/espalier)
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/espalierConfig.cmake.in
  ${PROJECT_BINARY_DIR}/espalierConfig.cmake INSTALL_DESTINATION ${package}
  PATH_VARS CMAKE_INSTALL_LIBDIR CMAKE_INSTALL_INCLUDEDIR)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/espalierConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/espalierConfig.cmake
  ${PROJECT_BINARY_DIR}/espalierConfigVersion.cmake cmake/EspalierTorch.cmake
  cmake/EspalierPackages.cmake DESTINATION ${package})
if(EXISTS ${ESPALIER_DEPS})
  install(DIRECTORY ${ESPALIER_DEPS}/ DESTINATION ${package}/deps)
endif()
