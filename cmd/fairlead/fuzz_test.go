package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/providers"
)

// FuzzDump: whatever a file holds, as a dump or as a wish, the answer is an
// answer or an error.
func FuzzDump(f *testing.F) {
	for _, pattern := range []string{"testdata/docs/*.yaml", "testdata/*.txt"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			f.Fatalf("%s: %v", pattern, err)
		}
		for _, file := range files {
			content, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			text := string(content)
			if i := strings.Index(text, "-- dump.yaml --\n"); i >= 0 {
				text, _, _ = strings.Cut(text[i+len("-- dump.yaml --\n"):], "\n-- ")
			}
			f.Add(text, `{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {type: LoadBalancer, ipFamilyPolicy: PreferDualStack}}`)
		}
	}
	all, err := readSchemas()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(_ *testing.T, dump, wish string) {
		file := reader{strict: true, wanted: plannable, schemas: all, into: new(inventory), namespace: "default"}
		_ = file.readAll("wish", strings.NewReader(wish))
		from := reader{into: new(inventory), skipped: map[string]int{}}
		if err := from.readAll("dump", strings.NewReader(dump)); err != nil {
			return
		}
		w := from.into.world(time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC))
		w.cluster.Policy = providers.Policy{Mode: providers.Auto}
		var b strings.Builder
		examine(w).text(&b)
		for _, svc := range w.cluster.Services {
			if e, err := explain(w, types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}); err == nil {
				e.text(&b)
			}
		}
		if p, err := preview(w.cluster, wishes{file: file.into}, true); err == nil {
			p.text(&b)
		}
		_, _ = from.into.dump()
	})
}
