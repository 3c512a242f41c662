package agent

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// maxHookOutput is how much of a hook's output an error shows, in bytes.
const maxHookOutput = 4 << 10

// late is what the runtime may still say after create or exec, when only the process is left that will be the container's:
// crun then writes its error to the process's own stderr, from create as JSON, and on a terminal in colour.
type late struct {
	arg0   string   // the command that will run
	hooks  []string // paths of the startContainer hooks
	output string   // the files of their output are this and ".stdout" or ".stderr"
}

// colour matches what crun puts around messages on a terminal.
var colour = regexp.MustCompile("\x1b\\[[0-9;]*m")

// words says in runc's words what a process that never came to run its program has written. Its first line is the
// reason; after a hook that failed crun also tells of an old error that was none.
func (l late) words(text []byte) []byte {
	line, _, ended := bytes.Cut(text, []byte("\n"))
	if !ended {
		return text
	}
	plain, end := bytes.CutSuffix(colour.ReplaceAllLiteral(line, nil), []byte("\r"))
	var said struct{ Msg string }
	if json.Unmarshal(plain, &said) != nil || said.Msg == "" {
		said.Msg = string(plain)
	}
	words := l.word(oneLine(said.Msg))
	if end {
		words += "\r"
	}
	return []byte(words + "\n")
}

var (
	execFailed  = regexp.MustCompile("^exec(?: container process(?: \\(missing dynamic library\\?\\))? `(.*)`)?: (.+)$")
	hookFailed  = regexp.MustCompile("^error executing hook `(.*)` \\(exit code: ([0-9]+)\\)$")
	hookExpired = regexp.MustCompile("^timeout expired for `(.*)`$")
)

// word words one message: see container_init, do_hooks and exec_process_entrypoint in crun's src/libcrun/container.c. runc's
// are in libcontainer/system/linux.go and libcontainer/configs/config.go.
func (l late) word(message string) string {
	if m := execFailed.FindStringSubmatch(message); m != nil {
		path := m[1]
		if path == "" {
			path = l.arg0
		}
		return fmt.Sprintf("exec %s: %s%s", path, strings.ToLower(m[2][:1]), m[2][1:])
	}
	if m := hookFailed.FindStringSubmatch(message); m != nil {
		code, _ := strconv.Atoi(m[2])
		reason := "exit status " + m[2]
		if code > 128 { // crun does not tell a signal from a status
			reason = "signal: " + syscall.Signal(code-128).String()
		}
		return fmt.Sprintf("error running startContainer hook #%d: %s, stdout: %s, stderr: %s",
			l.hook(m[1]), reason, head(l.output+".stdout"), head(l.output+".stderr"))
	}
	if m := hookExpired.FindStringSubmatch(message); m != nil {
		return fmt.Sprintf("error running startContainer hook #%d: hook ran past specified timeout", l.hook(m[1]))
	}
	return message
}

// hook is the number of the first hook that runs path.
func (l late) hook(path string) int { return max(0, slices.Index(l.hooks, path)) }

// head is the beginning of a file, in one line. It is for an error message: a read error gives less of it.
func head(path string) string {
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer file.Close()
	buffer := make([]byte, maxHookOutput)
	n, _ := file.ReadAt(buffer, 0)
	return oneLine(string(buffer[:n]))
}

// withHookOutput returns the config.json with files for the output of the startContainer hooks, which goes nowhere else
// (crun(1), run.oci.hooks.stdout).
func (l late) withHookOutput(config []byte) ([]byte, error) {
	if len(l.hooks) == 0 {
		return config, nil
	}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(config, &fields); err != nil {
		return nil, fmt.Errorf("parse spec: %w", err)
	}
	annotations := map[string]string{}
	if raw, ok := fields["annotations"]; ok {
		if err := json.Unmarshal(raw, &annotations); err != nil {
			return nil, fmt.Errorf("parse annotations: %w", err)
		}
	}
	for _, stream := range []string{"stdout", "stderr"} {
		annotations["run.oci.hooks."+stream] = l.output + "." + stream
	}
	raw, err := json.Marshal(annotations)
	if err != nil {
		return nil, fmt.Errorf("encode annotations: %w", err)
	}
	fields["annotations"] = raw
	return json.Marshal(fields)
}
