# Headers, library, pkg-config file, CMake package and test vectors of libuniprefill.
include(CMakePackageConfigHelpers)

install(TARGETS uniprefill EXPORT uniprefill LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY include/uniprefill DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT uniprefill NAMESPACE uniprefill:: FILE uniprefill-config.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/uniprefill)
write_basic_package_version_file(uniprefill-config-version.cmake VERSION ${PROJECT_VERSION} COMPATIBILITY SameMinorVersion)
# The file finds its prefix from where it lies, so that the installed tree may be moved.
file(RELATIVE_PATH prefix_from_pkgconfig ${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
configure_file(cmake/uniprefill.pc.in uniprefill.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/uniprefill.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/uniprefill-config-version.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/uniprefill)
install(DIRECTORY vectors DESTINATION ${CMAKE_INSTALL_DATADIR}/uniprefill)

# What the npm package for this platform holds; its files find each other by lying side by side.
foreach(target uniprefill uniprefill_node uniprefill_cuda)
  if(TARGET ${target})
    set_target_properties(${target} PROPERTIES INSTALL_RPATH $ORIGIN)
    install(TARGETS ${target} LIBRARY DESTINATION lib NAMELINK_SKIP COMPONENT prebuilt EXCLUDE_FROM_ALL)
  endif()
endforeach()
