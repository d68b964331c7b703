// HTTP calls with Java's HttpClient, which asks for h2c by an upgrade where its version is HTTP/2. See README.md.

import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.time.Duration;

public class Client {
    public static void main(String[] calls) throws Exception {
        for (String call : calls) {
            String[] words = call.split(" ");
            boolean two = words[1].equals("java2");
            HttpClient client = HttpClient.newBuilder()
                .version(two ? HttpClient.Version.HTTP_2 : HttpClient.Version.HTTP_1_1)
                .build();
            boolean post = words[2].equals("POST");
            HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(words[3]))
                .timeout(Duration.ofSeconds(20))
                .method(words[2], post ? BodyPublishers.ofString("x".repeat(300_000)) : BodyPublishers.noBody());
            if (!words[4].equals("-")) {
                request.header("Host", words[4]);
            }
            long start = System.nanoTime();
            String version = "";
            int status = 0;
            String answer = "";
            String text;
            try {
                HttpResponse<String> got = client.send(request.build(), BodyHandlers.ofString());
                version = got.version().toString();
                status = got.statusCode();
                answer = got.headers().firstValue("x-answer").orElse("");
                text = got.body();
            } catch (java.io.IOException error) {
                StringBuilder causes = new StringBuilder();
                for (Throwable cause = error; cause != null; cause = cause.getCause()) {
                    causes.append(cause).append("; ");
                }
                text = causes.toString();
            }
            long ms = (System.nanoTime() - start) / 1_000_000;
            text = text.substring(0, Math.min(600, text.length()));
            System.out.println("{\"name\":" + quoted(words[0]) + ",\"version\":" + quoted(version)
                + ",\"status\":" + status + ",\"answer\":" + quoted(answer) + ",\"ms\":" + ms
                + ",\"text\":" + quoted(text) + "}");
        }
    }

    private static String quoted(String text) {
        StringBuilder out = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            if (c == '"' || c == '\\') {
                out.append('\\').append(c);
            } else if (c < ' ') {
                out.append(String.format("\\u%04x", (int) c));
            } else {
                out.append(c);
            }
        }
        return out.append('"').toString();
    }
}
