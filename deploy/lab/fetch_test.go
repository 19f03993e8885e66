package lab_test

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

// TestFetchErrors checks that the error of Fetch names the missing dependency, in one
// line.
func TestFetchErrors(t *testing.T) {
	const noIndex = `#!/bin/sh
[ "$2" = venv ] || exit 0
mkdir -p "$3/bin"
printf '#!/bin/sh\necho retrying\necho no index answers\nexit 1\n' >"$3/bin/pip"
chmod +x "$3/bin/pip"
`
	for _, row := range []struct {
		name, python string // content of the program python3
		want         string
	}{
		{"no python", "", "install the packages python3 and python3-venv"},
		{"no venv", "#!/bin/sh\nexit 1\n", "install the package python3-venv"},
		{"no index", noIndex, "moto[server]==5.2.1', which requires PyPI or another index, " +
			"or provide a moto_server on the PATH: exit status 1: no index answers"},
	} {
		t.Run(row.name, func(t *testing.T) {
			path := t.TempDir()
			if row.python != "" {
				if err := os.WriteFile(filepath.Join(path, "python3"), []byte(row.python), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for _, program := range []string{"mkdir", "chmod"} {
				if err := os.Symlink("/bin/"+program, filepath.Join(path, program)); err != nil {
					t.Fatal(err)
				}
			}
			t.Setenv("PATH", path)
			err := lab.Binaries(t.TempDir()).Fetch(lab.Progress{Out: io.Discard}, lab.Moto)
			if err == nil || !strings.Contains(err.Error(), row.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want one line with %q", err, row.want)
			}
		})
	}
}
