package docker_test

import (
	"os"
	"strings"
	"testing"

	"github.com/hyper-runtime/hyper/tests/harness"
)

// runCase is one `docker run` in the foreground. $DIR in arguments stands for the test's directory.
type runCase struct {
	flags  string // split at blanks
	argv   string // after the image, split at blanks; what follows a | is one word
	stdin  string
	want   harness.Result // Stderr is only looked for, not compared
	before func(t *testing.T, e *engine)
	after  func(t *testing.T, e *engine)
}

var runCases = []runCase{
	{argv: "echo hello", want: harness.Result{Stdout: "hello\n"}},
	{argv: "sh -c|echo out; echo err >&2; exit 3", want: harness.Result{Code: 3, Stdout: "out\n", Stderr: "err\n"}},
	{argv: "false", want: harness.Result{Code: 1}},
	{flags: "-i", argv: "cat", stdin: "typed\n", want: harness.Result{Stdout: "typed\n"}},
	{flags: "-t", argv: "sh -c|test -t 1 && echo terminal", want: harness.Result{Stdout: "terminal\r\n"}},
	{flags: "-e A=1 -e B", argv: "sh -c|echo $A$B", want: harness.Result{Stdout: "1\n"}},
	{flags: "-w /made/for/it", argv: "pwd", want: harness.Result{Stdout: "/made/for/it\n"}},
	{flags: "-u user", argv: "id", want: harness.Result{Stdout: "uid=1000(user) gid=1000(user) groups=1000(user),2000(extra)\n"}},
	{flags: "-u 7:8 --group-add 9", argv: "id", want: harness.Result{Stdout: "uid=7 gid=8 groups=8,9\n"}},
	{flags: "--hostname a-name", argv: "hostname", want: harness.Result{Stdout: "a-name\n"}},
	{flags: "--read-only", argv: "touch /x", want: harness.Result{Code: 1, Stderr: "Read-only file system"}},
	{flags: "--tmpfs /mnt:size=1m,mode=700", argv: "sh -c|stat -c %a /mnt; df -k /mnt | awk 'NR==2{print $2}'", want: harness.Result{Stdout: "700\n1024\n"}},
	{flags: "-v $DIR/v/dir:/mnt", argv: "sh -c|cat /mnt/file; echo new >/mnt/new", want: harness.Result{Stdout: "old\n"}, before: makeVolume, after: hasNew},
	{flags: "-v $DIR/v/dir:/mnt:ro", argv: "sh -c|cat /mnt/file; touch /mnt/x", want: harness.Result{Code: 1, Stdout: "old\n", Stderr: "Read-only"}, before: makeVolume},
	{flags: "-v $DIR/v/dir/file:/etc/one", argv: "cat /etc/one", want: harness.Result{Stdout: "old\n"}, before: makeVolume},
	{flags: "-v a-volume:/mnt", argv: "sh -c|echo x >/mnt/x; cat /mnt/x", want: harness.Result{Stdout: "x\n"}},
	{flags: "--cap-drop ALL --cap-add CHOWN", argv: "grep CapEff /proc/self/status", want: harness.Result{Stdout: "CapEff:\t0000000000000001\n"}},
	{flags: "--cap-add NET_ADMIN", argv: "ip addr add 10.9.9.9/32 dev lo", want: harness.Result{}},
	{flags: "--ulimit nofile=100:200", argv: "sh -c|ulimit -n; ulimit -Hn", want: harness.Result{Stdout: "100\n200\n"}},
	{flags: "--init", argv: "sh -c|cat /proc/1/comm", want: harness.Result{Stdout: "docker-init\n"}},
	{flags: "--entrypoint /bin/echo", argv: "a b", want: harness.Result{Stdout: "a b\n"}},
	{flags: "--security-opt no-new-privileges", argv: "grep NoNewPrivs /proc/self/status", want: harness.Result{Stdout: "NoNewPrivs:\t1\n"}},
	{flags: "--sysctl net.ipv4.ip_default_ttl=77", argv: "cat /proc/sys/net/ipv4/ip_default_ttl", want: harness.Result{Stdout: "77\n"}},
	{flags: "--shm-size 1m", argv: "sh -c|df -k /dev/shm | awk 'NR==2{print $2}'", want: harness.Result{Stdout: "1024\n"}},
	{flags: "--network none", argv: "ls /sys/class/net", want: harness.Result{Stdout: "lo\n"}},
	{flags: "--add-host there:10.1.2.3 --dns 10.9.8.7", argv: "sh -c|grep there /etc/hosts; grep nameserver /etc/resolv.conf",
		want: harness.Result{Stdout: "10.1.2.3\tthere\nnameserver 10.9.8.7\n"}},
	{flags: "-m 64m --cpus 1 --pids-limit 20", argv: "sh -c|for i in $(seq 30); do sleep 9 & done 2>/dev/null; echo $?", want: harness.Result{Code: 2}},
	{argv: "sh -c|kill -9 $PPID; exit 5", want: harness.Result{Code: 5}},
	{flags: "--network no-such", argv: "true", want: harness.Result{Code: 125, Stderr: "no-such"}},
	{argv: "/etc/passwd", want: harness.Result{Code: 126, Stderr: "permission denied"}},
	{argv: "no-such-command", want: harness.Result{Code: 127, Stderr: "executable file not found in $PATH"}},
	{argv: "/no/such/command", want: harness.Result{Code: 127, Stderr: "no such file or directory"}},
}

// makeVolume makes the volume once: other cases read it at the same time.
func makeVolume(t *testing.T, e *engine) {
	e.volume.Do(func() { e.In(t).WriteFile("v/dir/file", "old\n", 0o644) })
}

func hasNew(t *testing.T, e *engine) {
	if got := e.In(t).ReadFile(e.Path("v/dir/new")); got != "new\n" {
		t.Errorf("on the host: %q", got)
	}
}

// testRun is one case, with --rm in all of them.
func (c runCase) test(t *testing.T, e *engine) {
	if c.before != nil {
		c.before(t, e)
	}
	args := append([]string{"run", "--rm"}, strings.Fields(strings.ReplaceAll(c.flags, "$DIR", e.Dir))...)
	command, script, found := strings.Cut(c.argv, "|")
	args = append(append(args, image), strings.Fields(command)...)
	if found {
		args = append(args, script)
	}
	r := e.finish(t, e.command(args...), c.stdin)
	if r.Code != c.want.Code || r.Stdout != c.want.Stdout || !strings.Contains(r.Stderr, c.want.Stderr) {
		t.Errorf("%v, want %v", r, c.want)
	}
	if c.after != nil {
		c.after(t, e)
	}
}

func TestDocker(t *testing.T) {
	e := startEngine(t)
	t.Run("run", func(t *testing.T) {
		for _, c := range runCases {
			t.Run(strings.TrimSpace(c.flags+" "+c.argv), func(t *testing.T) {
				t.Parallel()
				c.test(t, e)
			})
		}
	})
	if out := e.ok(t, "ps", "--all", "--quiet"); out != "" {
		t.Errorf("containers left after run --rm: %q", out)
	}
	t.Run("commands", func(t *testing.T) {
		for _, c := range commandCases {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				c.test(t, e)
			})
		}
	})
}

// exists tells whether a file is there.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
