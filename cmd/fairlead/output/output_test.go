package output

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

type greeting struct {
	Message string `json:"message"`
}

func (g greeting) Text(w io.Writer) error {
	_, err := io.WriteString(w, "Text: "+g.Message+"\n")
	return err
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestPrint(t *testing.T) {
	for format, want := range map[string]string{
		"text": "Text: a -> b\n",
		"json": "{\n  \"message\": \"a -> b\"\n}\n",
	} {
		var out strings.Builder
		if err := Print(&out, format, greeting{"a -> b"}); err != nil || out.String() != want {
			t.Errorf("%s: got %q, %v, want %q", format, out.String(), err, want)
		}
		if err := Print(brokenPipe{}, format, greeting{}); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("%s: got %v, want %v", format, err, io.ErrClosedPipe)
		}
	}
}

// TestControlCharacters checks that a message of an object does not control the terminal.
func TestControlCharacters(t *testing.T) {
	for format, want := range map[string]string{
		"text": "Text: ?]0;x??[2Jé?\n",
		"json": "{\n  \"message\": \"\\u001b]0;x\\u0007\\u001b[2Jé\\u009b\"\n}\n",
	} {
		var out strings.Builder
		if err := Print(&out, format, greeting{"\x1b]0;x\a\x1b[2Jé\u009b"}); err != nil || out.String() != want {
			t.Errorf("%s: got %q, %v, want %q", format, out.String(), err, want)
		}
	}
}

func TestTable(t *testing.T) {
	got := Table(func(w io.Writer) {
		fmt.Fprintln(w, "NAME\tSTATE\tNOTE")
		fmt.Fprintln(w, "a long name\tUp\t")
		fmt.Fprintln(w, "b\tDown\tnone")
	})
	want := "NAME         STATE  NOTE\na long name  Up\nb            Down   none\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
