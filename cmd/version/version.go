// Package version identifies the build of Fairlead.
package version

import (
	"cmp"
	"runtime/debug"
)

// version is set by the linker.
var version string

// String returns the version that the linker has set, the module version that the Go
// toolchain has recorded, or "dev".
func String() string {
	recorded := ""
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "(devel)" {
		recorded = info.Main.Version
	}
	return cmp.Or(version, recorded, "dev")
}
