package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "update the transcripts with the output of the commands")

// run runs a command line in a directory and returns its output as a terminal shows
// it.
func run(t *testing.T, folder, line string) string {
	t.Helper()
	t.Chdir(folder)
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	line, input, _ := strings.Cut(line, " < ")
	var out strings.Builder
	cmd := newRootCommand()
	cmd.SetArgs(strings.Fields(line)[1:])
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	if input != "" {
		f, err := os.Open(input)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		cmd.SetIn(f)
	}
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		fmt.Fprintf(&out, "(exits with %d)\n", exitCode(err, &out))
	}
	return out.String()
}

// replay runs every line of a transcript that starts with "$ fairlead", and
// returns the transcript as it should be.
func replay(t *testing.T, folder, transcript string) string {
	t.Helper()
	var out strings.Builder
	running := false
	for line := range strings.Lines(transcript) {
		text := strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(text, "$ fairlead "):
			if running {
				out.WriteString("\n")
			}
			running = true
			out.WriteString(line + run(t, folder, strings.TrimPrefix(text, "$ ")))
		case strings.HasPrefix(text, "$ "), !running:
			running = false
			out.WriteString(line)
		}
	}
	return out.String()
}

func compare(t *testing.T, file, got, want string) {
	t.Helper()
	if got == want {
		return
	}
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("%s: got\n%s\nwant\n%s\nTo accept the output: go test ./cmd/fairlead -run '%s' -update", file, got, want, t.Name())
}

// TestTranscripts replays the transcripts in testdata. Each contains some files, each
// after a line "-- NAME --", and command lines with their output.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("found no transcripts: %v", err)
	}
	for _, file := range files {
		file, err := filepath.Abs(file)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(filepath.Base(file), func(t *testing.T) {
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			folder := t.TempDir()
			head, transcript, found := strings.Cut(string(content), "-- transcript --\n")
			if !found {
				t.Fatal("the line -- transcript -- is missing")
			}
			var name string
			parts := map[string]string{}
			for line := range strings.Lines(head) {
				if strings.HasPrefix(line, "-- ") {
					name = strings.Trim(line, "- \n")
					continue
				}
				parts[name] += line
			}
			for name, text := range parts {
				if name == "" {
					continue // the description of the transcript
				}
				if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			compare(t, file, head+"-- transcript --\n"+replay(t, folder, transcript), string(content))
		})
	}
}

// TestDocumentation replays the transcripts in the documentation.
func TestDocumentation(t *testing.T) {
	for page, atLeast := range map[string]int{"docs/cli.md": 5, "README.md": 1} {
		t.Run(page, func(t *testing.T) {
			if replayed := replayPage(t, page); replayed < atLeast {
				t.Errorf("only %d transcripts were found", replayed)
			}
		})
	}
}

// replayPage replays the code blocks of a page that start with "$ fairlead", and
// returns how many there are.
func replayPage(t *testing.T, name string) (replayed int) {
	t.Helper()
	file, err := filepath.Abs(filepath.Join("../..", name))
	if err != nil {
		t.Fatal(err)
	}
	folder, err := filepath.Abs("testdata/docs")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	const fence = "```\n"
	parts := strings.SplitAfter(string(page), fence)
	for i, part := range parts {
		if i > 0 && strings.HasSuffix(part, fence) && strings.HasPrefix(part, "$ fairlead ") {
			parts[i] = replay(t, folder, strings.TrimSuffix(part, fence)) + fence
			replayed++
		}
	}
	compare(t, file, strings.Join(parts, ""), string(page))
	return replayed
}
