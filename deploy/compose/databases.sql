-- A role and a database for each service that has one; nobody enters another's. Runs once, when the volume is empty.
\getenv registry_password REGISTRY_DATABASE_PASSWORD
\getenv trainer_password TRAINER_DATABASE_PASSWORD
\getenv inference_password INFERENCE_DATABASE_PASSWORD

create role registry login password :'registry_password';
create role trainer login password :'trainer_password';
create role inference login password :'inference_password';

create database registry owner registry;
create database trainer owner trainer;
create database inference owner inference;

revoke all on database registry, trainer, inference, postgres, template1 from public;
