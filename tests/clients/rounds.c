/* As rounds.py, by getaddrinfo of the C library it is linked with. Without TLS. */
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* The failed call, or null. */
static const char *get(const char *url)
{
	char host[256], port[8], path[256], buffer[4096];
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
	if (sscanf(url, "http://%255[^:]:%7[0-9]%255s", host, port, path) != 3)
		return "url";
	if (getaddrinfo(host, port, &hints, &found))
		return "getaddrinfo";
	int fd = socket(found->ai_family, SOCK_STREAM, 0);
	const char *failed = "connect";
	if (connect(fd, found->ai_addr, found->ai_addrlen) == 0) {
		int length = snprintf(buffer, sizeof buffer,
				      "GET %s HTTP/1.1\r\nHost: %s:%s\r\nConnection: close\r\n\r\n", path, host, port);
		if (write(fd, buffer, length) != length)
			failed = "write";
		else if (recv(fd, buffer, 12, MSG_WAITALL) != 12 || memcmp(buffer, "HTTP/1.1 200", 12))
			failed = "answer";
		else
			failed = NULL;
	}
	close(fd);
	freeaddrinfo(found);
	return failed;
}

int main(int count, char **words)
{
	int rounds = atoi(words[2]), failures = 0;
	char some[2048] = "";
	for (int turn = 0; turn < rounds; turn++) {
		const char *url = words[4 + turn % (count - 4)];
		const char *failed = get(url);
		if (failed && failures++ < 5) {
			size_t used = strlen(some);
			snprintf(some + used, sizeof some - used, "%s\"%s: %s\"", used ? "," : "", url, failed);
		}
	}
	printf("{\"rounds\":%d,\"failures\":%d,\"failed\":[%s]}\n", rounds, failures, some);
	return 0;
}
