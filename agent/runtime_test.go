package agent

import "testing"

func TestRefusal(t *testing.T) {
	tests := []struct{ arg0, message, want string }{
		{"foo", "executable file `foo` not found in $PATH: No such file or directory", `exec: "foo": executable file not found in $PATH`},
		{"/foo", "executable file `/foo` not found in $PATH: No such file or directory", `exec: "/foo": stat /foo: no such file or directory`},
		{"./a/foo", "executable file `./a/foo` not found in $PATH: No such file or directory", `exec: "./a/foo": stat ./a/foo: no such file or directory`},
		{"/etc/motd", "open executable: Permission denied", `exec: "/etc/motd": permission denied`},
		{"motd", "open executable: Permission denied", `exec: "motd": executable file not found in $PATH`},
		{"/etc", "open executable: Operation not permitted", `exec: "/etc": is a directory`},
		{"/etc/motd/x", "open executable: Not a directory", `exec: "/etc/motd/x": stat /etc/motd/x: not a directory`},
		{"/x", "open executable: Too many levels of symbolic links", "open executable: Too many levels of symbolic links"},
		{"foo", "executable file `bar` not found in $PATH: No such file or directory", "executable file `bar` not found in $PATH: No such file or directory"},
		{"foo", "mount `proc` to `proc`: Operation not permitted", "mount `proc` to `proc`: Operation not permitted"},
	}
	for _, test := range tests {
		if got := refusal(test.message, test.arg0); got != test.want {
			t.Errorf("%q of %q: %q, want %q", test.message, test.arg0, got, test.want)
		}
	}
}

func TestLastError(t *testing.T) {
	tests := []struct{ log, want string }{
		{"", ""},
		{"not json\n", ""},
		{`{"msg":"careful","level":"warning"}` + "\n", ""},
		{`{"msg":"one","level":"error"}` + "\n" + `{"msg":"two\nlines\u001b[31m","level":"error"}` + "\n" + `{"msg":"three","level":"warning"}`, "two lines [31m"},
	}
	for _, test := range tests {
		if got := lastError([]byte(test.log)); got != test.want {
			t.Errorf("%q: %q, want %q", test.log, got, test.want)
		}
	}
}
