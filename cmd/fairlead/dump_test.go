package main

import (
	"os"
	"path/filepath"
	"testing"

	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/fairlead-io/fairlead/cmd/fairlead/objects"
)

// TestDumpRoundTrip: what dump writes, --from reads, and nothing is lost.
func TestDumpRoundTrip(t *testing.T) {
	first, notes, err := objects.FromDumps([]string{"testdata/docs/dump.yaml"}, nil)
	if err != nil || len(notes) > 0 {
		t.Fatalf("%v, %q", err, notes)
	}
	text, err := dump(first)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "again.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	second, _, err := objects.FromDumps([]string{file}, nil)
	if err != nil {
		t.Fatal(err)
	}
	had, have := first.All(), second.All()
	if len(had) < 10 || len(had) != len(have) {
		t.Fatalf("%d objects became %d", len(had), len(have))
	}
	for i := range had {
		if !equality.Semantic.DeepEqual(had[i], have[i]) {
			t.Errorf("%v\nbecame\n%v", had[i], have[i])
		}
	}
}
