# Header, library, pkg-config file and CMake package of libuniprefill.
include(GNUInstallDirs)
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
